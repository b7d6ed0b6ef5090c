"""ASGI middleware that counts requests and their time, by the template of their route."""

import time

from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import metrics
from service.api.rules import PUBLIC_FOLDERS, RULES

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""Stands for all paths that no endpoint has, and for all other methods: a client may write any."""

NO_ANSWER = "none"

TEMPLATES = [
    (compile_path(template)[0], template)
    for template in (
        *dict.fromkeys(path for _, path in RULES),
        *(f"{one}{{path:path}}" for one in PUBLIC_FOLDERS),
    )
]
"""The pattern and the template of each path, such as `/gallery/{item_id}`."""


class RequestMetrics:
    """Counts each request with its status, and measures the time until its answer has been sent.

    The route is found by the path, because requests that are refused on their way have met no route yet.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.perf_counter()
        status = NO_ANSWER

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            method = scope["method"] if scope["method"] in METHODS else OTHER
            route = _template_of(scope["path"])
            metrics.REQUESTS.labels(method, route, status).inc()
            metrics.REQUEST_S.labels(method, route).observe(time.perf_counter() - started_s)


def _template_of(path: str) -> str:
    return next((template for pattern, template in TEMPLATES if pattern.match(path)), OTHER)
