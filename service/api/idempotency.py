"""Idempotency-Key: a POST that is sent twice is done once, and both requests get the same answer."""

import hashlib
import re
from collections.abc import Callable, Iterator
from tempfile import SpooledTemporaryFile
from typing import IO

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.claims import Claim, Claims
from service.api.problems import failure_problem, http_problem, service_problem
from service.errors import Fault, InvalidRequest, ServiceError
from service.keys.callers import Caller
from service.store.failures import from_temporary_file
from service.store.tables import KeptAnswer

logger = structlog.get_logger(__name__)

HEADER = "idempotency-key"
REPLAYED = "Idempotency-Replayed"
KEY = re.compile(r"[\x20-\x7e]{1,255}")
BAD_KEY = Fault(("header", "Idempotency-Key"), "expected 1 to 255 printable ASCII characters")
BOUNDARY = re.compile(rb'boundary="?([^";]{16,})', re.IGNORECASE)
"""A boundary that may be random. Clients choose at least 16 characters, so that no file holds the boundary. A
shorter one counts as content: it may occur in a file, and very often."""
CHUNK_BYTES = 1024 * 1024
"""A longer body is spooled to a file on the disk, and read back in chunks of this size."""


class Idempotency:
    """Answers a repeated POST with the kept answer. A request without an Idempotency-Key passes through.

    So does a sign-in, which has no caller yet: its key could be that of a caller, and its answer must be new.
    So does a search, which changes nothing: its answers are long, and to keep them would fill a disk.
    """

    def __init__(self, app: ASGIApp, claims: Claims, require_ready: Callable[[], object]) -> None:
        self._app = app
        self._claims = claims
        self._require_ready = require_ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        key = Headers(scope=scope).get(HEADER) if scope["type"] == "http" else None
        if key is None or scope["method"] != "POST" or not scope["state"]["rule"].is_done_once:
            await self._app(scope, receive, send)
            return
        request_id = str(scope["state"]["request_id"])
        with SpooledTemporaryFile(CHUNK_BYTES) as body:
            try:
                if not KEY.fullmatch(key):
                    raise InvalidRequest(BAD_KEY)
                self._require_ready()  # until then the database may have no tables
                fingerprint = await _spool(scope, receive, body)
                if fingerprint is None:
                    return  # the caller has disconnected
                claim = Claim(_of_caller(key, scope["state"].get("caller")), fingerprint)
                kept = await run_in_threadpool(self._claims.take, claim)
            except ServiceError as error:
                if isinstance(error.__cause__, OSError):
                    logger.warning("the body of a request cannot be kept", reason=str(error.__cause__))
                await service_problem(request_id, error)(scope, receive, send)
            except HTTPException as error:
                await http_problem(request_id, error.status_code, error.detail)(scope, receive, send)
            except (SQLAlchemyError, OSError) as error:
                await failure_problem(request_id, error)(scope, receive, send)
            else:
                if kept is not None:
                    await _kept_response(kept)(scope, receive, send)
                else:
                    await self._handle_first(scope, body, claim, send)

    async def _handle_first(
        self, scope: Scope, body: "SpooledTemporaryFile[bytes]", claim: Claim, send: Send
    ) -> None:
        scope["state"]["claim"] = claim
        answer: list[Message] = []

        async def collect(message: Message) -> None:
            answer.append(message)

        try:
            await self._app(scope, _receive_from(body), collect)
            status = answer[0]["status"]
            if 200 <= status < 300:
                location = Headers(raw=answer[0]["headers"]).get("location")
                content = b"".join(message.get("body", b"") for message in answer[1:])
                claim.answer = (status, location, content)
        finally:
            await run_in_threadpool(self._release, claim)
        for message in answer:
            await send(message)

    def _release(self, claim: Claim) -> None:
        """Release a claim. If the database fails, the answer is sent nevertheless, because it is true.

        The claim then lapses by itself, and a repeat of the request is done again unless the answer was kept
        in the transaction of the request.
        """
        try:
            self._claims.release(claim)
        except (ServiceError, SQLAlchemyError, OSError) as error:
            logger.warning("the answer of an Idempotency-Key cannot be kept", reason=str(error))


def _of_caller(key: str, caller: Caller | None) -> str:
    """Return an Idempotency-Key as one of its caller, so that no caller gets the answer of another."""
    if caller is None or caller.key_id is None:
        return key
    return hashlib.sha256(f"{caller.key_id} {key}".encode()).hexdigest()


async def _spool(scope: Scope, receive: Receive, body: "SpooledTemporaryFile[bytes]") -> str | None:
    """Read the body into a file and return the fingerprint of the request, or None if the caller disconnects.

    The fingerprint is the SHA-256 of method, path, query and body. The boundary of a multipart form is left
    out, because clients choose a random one for each request.
    """
    headers = Headers(scope=scope)
    found = BOUNDARY.search(headers.get("content-type", "").encode("latin-1"))
    digest = hashlib.sha256(f"{scope['method']} {scope['path']}?".encode() + scope["query_string"] + b"\n")
    copy = _HashedCopy(body, digest, found[1] if found else b"")
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        try:
            await run_in_threadpool(copy.write, message.get("body", b""))
        except OSError as error:
            raise from_temporary_file(error) from error
        if not message.get("more_body", False):
            break
    copy.finish()
    body.seek(0)
    return digest.hexdigest()


class _HashedCopy:
    """Copies a body chunk by chunk, and hashes it without the boundary, even where two chunks share one."""

    def __init__(self, file: IO[bytes], digest: "hashlib._Hash", boundary: bytes) -> None:
        self._file = file
        self._digest = digest
        self._boundary = boundary
        self._rest = b""

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._rest += chunk
        if not self._boundary:
            self.finish()
            return
        *whole, last = self._rest.split(self._boundary)
        for part in whole:
            self._digest.update(part)
        num_kept = min(len(last), len(self._boundary) - 1)
        self._digest.update(last[: len(last) - num_kept])
        self._rest = last[len(last) - num_kept :]

    def finish(self) -> None:
        self._digest.update(self._rest)
        self._rest = b""


def _receive_from(body: "SpooledTemporaryFile[bytes]") -> Receive:
    chunks: Iterator[bytes] = iter(lambda: body.read(CHUNK_BYTES), b"")

    async def receive() -> Message:
        chunk = await run_in_threadpool(next, chunks, b"")
        return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

    return receive


def _kept_response(kept: KeptAnswer) -> Response:
    headers = {**kept.headers, REPLAYED: "true"}
    return Response(kept.body, kept.status or 200, headers, media_type="application/json")
