"""ASGI middleware around the app, outermost first; `create_app` says in which order they follow."""

import logging
import re
import time
from collections.abc import Mapping
from http import HTTPStatus

import structlog
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import http_problem, service_problem
from service.errors import Fault, InvalidRequest, ServiceError
from service.store.tables import new_id
from service.store.timeouts import SILENCE_S, answer_within

logger = structlog.get_logger(__name__)

ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
URL_ENCODED, MULTIPART = b"application/x-www-form-urlencoded", b"multipart/form-data"
CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1")
"""Encodings of a form that are decoded quickly. The last two are named by clients of some languages."""

RANGE = re.compile(r"(?=\d|-\d)(\d{0,18})-(\d{0,18})")
"""One range of bytes: its first and its last position, or the number of bytes at the end after a dash."""

HANDLE_IS_CLOSED = "the handler is closed"
"""What uvloop says when a client has closed its connection just before the server writes to it."""

QUIET_PATHS = re.compile(r"/livez|/readyz|/metrics|/web/.*|/gallery/[^/]+/(image|thumbnail)")
"""Paths that probes ask every few seconds, and a page a hundred times; they are logged at the level debug."""


class RequestId:
    """Gives each request an id, which is in its log lines, in JSON answers and in the header X-Request-ID.

    The request also waits for the database no longer than `SILENCE_S`. What is sent to a client that has gone
    is dropped.

    The id is the caller's own X-Request-ID if that has 1 to 64 letters, digits, dots, dashes or underscores.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if ACCEPTED_ID.fullmatch(sent) else new_id()
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            try:
                await send(message)
            except RuntimeError as error:
                if HANDLE_IS_CLOSED not in str(error):
                    raise  # else nobody is there who could read the answer

        with structlog.contextvars.bound_contextvars(request_id=request_id), answer_within(SILENCE_S):
            await self._app(scope, receive, send_with_id)


class RequestLog:
    """Writes one log line for each request, and answers 500 to a request that raised an exception."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.monotonic()
        status: int | None = None

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            logger.exception("request failed", method=scope["method"], path=path_to_log(scope))
            if status is not None:
                raise
            request_id = scope["state"]["request_id"]
            detail = (
                f"unexpected error; the log of the service has the details under the request id {request_id}"
            )
            await service_problem(request_id, ServiceError(detail))(scope, receive, send_and_note)
        is_quiet = scope["state"].get("is_refused") or (
            QUIET_PATHS.fullmatch(scope["path"]) and (status or 500) < HTTPStatus.BAD_REQUEST
        )
        logger.log(
            logging.DEBUG if is_quiet else logging.INFO,
            "request",
            method=scope["method"],
            path=path_to_log(scope),
            status=status,
            took_ms=round((time.monotonic() - started_s) * 1000, 1),
            address=scope["client"][0] if scope.get("client") else None,
            **_key_to_log(scope),
        )


class HeadRequests:
    """Answers HEAD as GET without the body, with the same status and headers, such as Content-Length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        is_over = False

        async def send_head(message: Message) -> None:
            nonlocal is_over
            if message["type"] == "http.response.start":
                await send(message)
            elif message["type"] == "http.response.body" and not is_over:
                is_over = not message.get("more_body", False)
                await send({"type": "http.response.body", "body": b"", "more_body": not is_over})

        # The server has the scope too, and must go on seeing HEAD: it sends no body then.
        await self._app({**scope, "method": "GET"}, receive, send_head)


class Ranges:
    """Ignores a malformed Range, and answers 416 with a problem document where a range begins behind the end.

    RFC 9110, 14.2, lets a server ignore any Range, and has it ignore units that it does not know. Starlette
    answers both kinds as plain text, and a malformed Range with 400.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        asked = Headers(scope=scope).get("range") if scope["type"] == "http" else None
        if asked is None:
            await self._app(scope, receive, send)
            return
        if not _is_range(asked):
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"range"]}
        is_answered = False

        async def send_problem(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start" and message["status"] == 416:
                is_answered = True
                length = Headers(raw=message["headers"])["content-range"]
                detail = f"the range begins behind the end of the file, which has {length[8:]} bytes"
                answer = http_problem(scope["state"]["request_id"], 416, detail)
                answer.headers["Content-Range"] = length
                await answer(scope, receive, send)
            elif not is_answered:
                await send(message)

        await self._app(scope, receive, send_problem)


def _is_range(asked: str) -> bool:
    """Return whether a Range is one of bytes, and well formed.

    >>> _is_range("bytes=0-9, -5"), _is_range("bytes=9-0"), _is_range("lines=0-9")
    (True, False, False)
    """
    unit, _, listed = asked.partition("=")
    found = [RANGE.fullmatch(one.strip()) for one in listed.split(",")]
    return unit.strip().lower() == "bytes" and all(
        one is not None and (not one[1] or not one[2] or int(one[1]) <= int(one[2])) for one in found
    )


class FormKind:
    """Answers 422 to a form that is not multipart/form-data in UTF-8, before the form is read.

    Starlette reads URL-encoded forms too. But the forms of this API hold files, and 50 MB of `&` take 20
    seconds. Starlette also decodes a field by any codec that the caller names. The time of punycode grows
    with the square of the field, and Python keeps the name of each unknown codec for ever.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        sent = Headers(scope=scope).get("content-type", "") if scope["type"] == "http" else ""
        if (reason := _form_fault(sent)) is None:
            await self._app(scope, receive, send)
        else:
            error = InvalidRequest(Fault(("body",), reason), detail=reason)
            await service_problem(scope["state"]["request_id"], error)(scope, receive, send)


def _form_fault(content_type: str) -> str | None:
    """Return why a form is refused, or None.

    >>> _form_fault("multipart/form-data; boundary=a"), _form_fault("application/json")
    (None, None)
    >>> _form_fault("multipart/form-data; boundary=a; charset=punycode")
    'the form is not in UTF-8; leave out charset in Content-Type'
    """
    kind, parameters = parse_options_header(content_type)
    if kind == URL_ENCODED:
        return "the body is application/x-www-form-urlencoded; send its fields as a form, multipart/form-data"
    if kind == MULTIPART and parameters.get(b"charset", b"utf-8").lower() not in CHARSETS:
        return "the form is not in UTF-8; leave out charset in Content-Type"
    return None


class BodyLimit:
    """Answers 413 to a request whose body is longer than its path allows.

    A body whose Content-Length is too long is refused unread. A body without that header is refused as soon
    as more bytes have arrived than allowed.

    The `max_body_size` of FastAPI 0.165 is not used, for two reasons. FastAPI applies the limit of a route
    after routing, but Idempotency reads the whole body before routing. And if an endpoint answers without
    reading the body, Starlette answers 413 as plain text instead of a problem document.

    Args:
        app: the wrapped app.
        max_body_bytes: the limit of each path; the key "" holds the limit of all other paths.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: Mapping[str, int]) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._max_body_bytes.get(scope["path"], self._max_body_bytes[""])
        too_large = f"the body of the request has more than {limit:,} bytes"
        num_bytes = 0

        async def receive_limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > limit:
                raise HTTPException(413, too_large)
            return message

        if _declared_bytes(scope) > limit:
            await http_problem(scope["state"]["request_id"], 413, too_large)(scope, receive, send)
        else:
            await self._app(scope, receive_limited, send)


def _declared_bytes(scope: Scope) -> int:
    declared = Headers(scope=scope).get("content-length", "")
    return int(declared) if declared.isdecimal() else 0


def _key_to_log(scope: Scope) -> dict[str, str]:
    """Return the id of the caller's key, if the caller has one."""
    key_id = getattr(scope["state"].get("caller"), "key_id", None)
    return {} if key_id is None else {"key": key_id}


def path_to_log(scope: Scope) -> str:
    """Return the path, or for an identity the template of the route.

    The id of an identity is not logged, because it may be a person's name.
    """
    path: str = scope["path"]
    if not path.startswith("/identities/"):
        return path
    return str(getattr(scope.get("route"), "path", "/identities/*"))
