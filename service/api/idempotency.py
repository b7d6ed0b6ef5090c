"""Idempotency-Key: a POST that is sent twice is done once, and both requests get the same answer.

The first request claims the key in the database, so every process recognises a repeat. If the request
succeeds, its answer is kept for 24 hours. If the request fails, it has changed nothing, so the claim is
deleted. An enrolment keeps its answer in the transaction that adds the items, so a crash cannot separate the
items from the answer.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from tempfile import SpooledTemporaryFile
from threading import Lock
from typing import IO

import structlog
from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import failure_problem, http_problem, service_problem
from service.errors import Fault, IdempotencyInProgress, IdempotencyMismatch, InvalidRequest, ServiceError
from service.jobs.jobs import LEASE, SECOND_LOOK_S
from service.keys.callers import Caller
from service.store.failures import from_temporary_file
from service.store.store import Store
from service.store.tables import KeptAnswer, Retention, now

logger = structlog.get_logger(__name__)

HEADER = "idempotency-key"
REPLAYED = "Idempotency-Replayed"
KEY = re.compile(r"[\x20-\x7e]{1,255}")
BAD_KEY = Fault(("header", "Idempotency-Key"), "expected 1 to 255 printable ASCII characters")
BOUNDARY = re.compile(rb'boundary="?([^";]{16,})', re.IGNORECASE)
"""A boundary that may be random. Clients choose at least 16 characters, so that no file holds the boundary. A
shorter one counts as content: it may occur in a file, and very often."""
KEPT_FOR = timedelta(hours=24)
CHUNK_BYTES = 1024 * 1024
"""A longer body is spooled to a file on the disk, and read back in chunks of this size."""


@dataclass
class Claim:
    """Ownership of an Idempotency-Key by one request in progress.

    Attributes:
        key: the key.
        fingerprint: hash of the request, in hex. A repeat of the request has the same hash.
        taken_at: time of the claim. A request that takes over an abandoned claim has a later time.
        answer: status, header Location and body, once the request has succeeded.
    """

    key: str
    fingerprint: str
    taken_at: datetime = field(default_factory=now)
    answer: tuple[int, str | None, bytes] | None = None


@dataclass
class Claims:
    """The claims of the requests that are in progress in this process.

    A claim whose `alive_at` has not been renewed for `LEASE` is abandoned, because its process must be dead.
    """

    store: Store
    _keys: set[str] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    def take(self, claim: Claim) -> KeptAnswer | None:
        """Claim a key, or return the answer that was kept under this key.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            IdempotencyInProgress: the first request with this key is in progress.
        """
        try:
            with self.store.write() as session:
                kept = self._look(session, claim)
            if kept is not None and kept.status is None:
                if self.store.stopping.wait(SECOND_LOOK_S):
                    raise IdempotencyInProgress
                with self.store.write() as session:
                    kept = self._look(session, claim, kept.alive_at)
        except IntegrityError:
            raise IdempotencyInProgress from None  # another request has just claimed the key
        if kept is not None:
            return kept
        with self._lock:
            self._keys.add(claim.key)
        return None

    def _look(self, session: Session, claim: Claim, seen: datetime | None = None) -> KeptAnswer | None:
        """Claim a key and return None, or return the answer that was kept under it.

        A request in progress that looks dead is returned as it is, for a second look. At the second look its
        key is taken over if nobody has said since that the request is under way: so a jump of the clock does
        not make a living request look dead.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            IdempotencyInProgress: the first request is under way.
        """
        moment = claim.taken_at
        kept = session.get(KeptAnswer, claim.key, with_for_update=True)
        if kept is not None and kept.created_at < _oldest_kept(session, now()):
            session.delete(kept)
            session.flush()
            kept = None
        if kept is None:
            new = KeptAnswer(key=claim.key, fingerprint=claim.fingerprint, headers={})
            new.created_at = new.alive_at = moment
            session.add(new)
            return None
        if kept.fingerprint != claim.fingerprint:
            raise IdempotencyMismatch
        if kept.status is not None:
            return kept
        with self._lock:
            is_own = claim.key in self._keys
        if is_own or abs(now() - kept.alive_at) <= LEASE or (seen is not None and seen != kept.alive_at):
            raise IdempotencyInProgress
        if seen is None:
            return kept
        kept.created_at = kept.alive_at = moment  # the process that had the key has died
        return None

    def release(self, claim: Claim) -> None:
        """End a claim: keep the answer of a request that has succeeded, or delete the claim."""
        with self._lock:
            self._keys.discard(claim.key)
        with self.store.write() as session:
            if claim.answer is not None:
                _keep(session, claim, *claim.answer)
            session.execute(delete(KeptAnswer).where(*_is_open(claim)))

    def keep_alive(self) -> None:
        """Renew `alive_at` of all claims of this process; called every half second."""
        with self._lock:
            keys = list(self._keys)
        if keys:
            with self.store.write() as session:
                session.execute(update(KeptAnswer).where(KeptAnswer.key.in_(keys)).values(alive_at=now()))

    def delete_old(self) -> None:
        """Delete the answers that are older than `KEPT_FOR`."""
        with self.store.read() as session:
            old = KeptAnswer.created_at < _oldest_kept(session, now())
            if session.scalar(select(KeptAnswer.key).where(old).limit(1)) is None:
                return
        with self.store.write() as session:
            session.execute(delete(KeptAnswer).where(old))


def _oldest_kept(session: Session, moment: datetime) -> datetime:
    """Return the time from which answers are kept, if `moment` is the present by the clock of the machine.

    A clock that has jumped ahead ends no answer: the last time at which the clock was right counts as well.
    """
    checked_at = session.scalar(select(Retention.checked_at))
    return (moment if checked_at is None else min(moment, checked_at)) - KEPT_FOR


def keep_answer(scope: Scope, session: Session, status: int, body: str, location: str | None) -> None:
    """Keep the answer of a request in the transaction of `session`, if the request has an Idempotency-Key.

    Raises:
        IdempotencyInProgress: another request has taken over the claim, because this process seemed dead. The
            transaction must be rolled back.
    """
    claim: Claim | None = scope["state"].get("claim")
    if claim is not None and not _keep(session, claim, status, location, body.encode()):
        raise IdempotencyInProgress


def _keep(session: Session, claim: Claim, status: int, location: str | None, body: bytes) -> bool:
    """Keep an answer unless the claim has ended or was taken over, and return whether the answer was kept."""
    headers = {} if location is None else {"location": location}
    values = {"status": status, "headers": headers, "body": body}
    result = session.execute(update(KeptAnswer).where(*_is_open(claim)).values(values))
    return bool(result.rowcount)  # type: ignore[attr-defined]


def _is_open(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """Return SQL conditions for a claim that has no answer yet and was not taken over."""
    return (
        KeptAnswer.key == claim.key,
        KeptAnswer.status.is_(None),
        KeptAnswer.created_at == claim.taken_at,
    )


class Idempotency:
    """Answers a repeated POST with the kept answer. A request without an Idempotency-Key passes through.

    So does a sign-in, which has no caller yet: its key could be that of a caller, and its answer must be new.
    """

    def __init__(self, app: ASGIApp, claims: Claims, require_ready: Callable[[], object]) -> None:
        self._app = app
        self._claims = claims
        self._require_ready = require_ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        key = Headers(scope=scope).get(HEADER) if scope["type"] == "http" else None
        if key is None or scope["method"] != "POST" or scope["state"]["rule"].role is None:
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
