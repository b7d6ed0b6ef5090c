"""The outermost layer of a request: its id, its log line, the limit of its body, and the last catch-all."""

import re
import time
from collections.abc import Mapping
from urllib.parse import quote, unquote

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import http_problem, service_problem
from service.errors import ServiceError
from service.gallery.metadata import SLASH_IN_NAME
from service.store.tables import new_id

logger = structlog.get_logger(__name__)

SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
ENCODED_SLASH = re.compile(rb"%2f", re.IGNORECASE)
NOT_IN_NAMES = re.compile(rb"%(00|1f)", re.IGNORECASE)
QUIET_PATHS = ("/livez", "/readyz")


class Edge:
    """Wraps the app; `max_body_bytes` is by path, with "" for every other path."""

    def __init__(self, app: ASGIApp, max_body_bytes: Mapping[str, int]) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if SANE_ID.fullmatch(sent) else new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        scope["path"] = _path(scope)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._handle(scope, receive, _Answer(send, request_id))

    async def _handle(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        started_s = time.monotonic()
        limit = self._max_body_bytes.get(scope["path"], self._max_body_bytes[""])
        try:
            if _declared_bytes(scope) > limit:
                refusal = http_problem(answer.request_id, 413, _too_large(limit))
                await refusal(scope, receive, answer.send)
            else:
                await self._app(scope, _limited(receive, limit), answer.send)
        except Exception:
            logger.exception("request failed", method=scope["method"], path=_path_to_log(scope))
            if answer.status is not None:
                raise
            detail = f"this is our fault; the log has it under the request id {answer.request_id}"
            failure = service_problem(answer.request_id, ServiceError(detail))
            await failure(scope, receive, answer.send)
        if scope["path"] not in QUIET_PATHS:
            took_ms = round((time.monotonic() - started_s) * 1000, 1)
            logger.info(
                "request",
                method=scope["method"],
                path=_path_to_log(scope),
                status=answer.status,
                took_ms=took_ms,
            )


class _Answer:
    """Sends the answer with the request's id, and remembers its status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["X-Request-ID"] = self.request_id
        await self._send(message)


def _path(scope: Scope) -> str:
    """Return the decoded path, in which a slash that was percent-encoded is SLASH_IN_NAME.

    What no name has, and PostgreSQL refuses, becomes DEL, which no name has either.
    """
    raw: bytes = scope.get("raw_path", b"")
    path: str = scope["path"]
    if NOT_IN_NAMES.search(raw) or ENCODED_SLASH.search(raw):
        raw = ENCODED_SLASH.sub(quote(SLASH_IN_NAME).encode(), NOT_IN_NAMES.sub(b"%7F", raw))
        path = unquote(raw.decode("ascii"))
    return path


def _path_to_log(scope: Scope) -> str:
    """Return the path without the id of an identity, which may be someone's name."""
    path: str = scope["path"]
    if not path.startswith("/identities/"):
        return path
    return str(getattr(scope.get("route"), "path", "/identities/*"))


def _declared_bytes(scope: Scope) -> int:
    declared = Headers(scope=scope).get("content-length", "")
    return int(declared) if declared.isdecimal() else 0


def _limited(receive: Receive, limit: int) -> Receive:
    """Return a receive that refuses to go past the limit, whatever the request has declared."""
    num_bytes = 0

    async def receive_limited() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return receive_limited


def _too_large(limit: int) -> str:
    return f"the request has more than {limit:,} bytes"
