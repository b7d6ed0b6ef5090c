"""Audits each request whose rule has an action: it gets an entry, and the entry goes to the audit."""

from http import HTTPStatus

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.idempotency import REPLAYED
from service.api.problems import service_problem
from service.audit.entries import DONE, Entry, audited, current
from service.audit.log import Audit
from service.errors import DatabaseUnavailable, ServiceError
from service.keys.callers import ANYBODY, Caller
from service.store.clock import Clock

logger = structlog.get_logger(__name__)

MAX_ADDRESS = 64
"""Characters of an address. A proxy that is trusted may hand on any text as one."""


FULL = "too many rows of the audit wait for the database, and no search or change goes without its row"


def entry_of(scope: Scope, clock: Clock) -> Entry:
    """Return the entry of a request, before anything was done for it."""
    caller: Caller = scope["state"].get("caller", ANYBODY)
    return Entry(
        at=clock.now(),
        action=scope["state"]["rule"].action,
        name=caller.name,
        role=caller.role,
        key_id=caller.key_id,
        address=scope["client"][0][:MAX_ADDRESS] if scope.get("client") else None,
        request_id=scope["state"]["request_id"],
    )


def name_caller(caller: Caller) -> None:
    """Let the entry of this request name a caller who was not known when it came, as at a sign-in."""
    entry = current()
    if entry is not None:
        entry.key_id, entry.name, entry.role = caller.key_id, caller.name, caller.role


def outcome_of(status: int | None) -> str:
    """Return the outcome of a request for the audit.

    >>> outcome_of(201), outcome_of(403), outcome_of(503), outcome_of(None)
    ('done', 'refused 403', 'failed 503', 'dropped')
    """
    if status is None:
        return "dropped"
    if status < HTTPStatus.BAD_REQUEST:
        return DONE
    return f"{'refused' if status < HTTPStatus.INTERNAL_SERVER_ERROR else 'failed'} {status}"


class Audited:
    """Gives each audited request an entry.

    The transaction of a change has written the entry when the answer is sent. The entries of searches, and of
    requests that were refused or have failed, are queued. If the queue is full and the database takes none,
    the request is refused, because it would leave no row.

    Args:
        app: the wrapped app.
        audit: takes the entries.
        clock: the clock of the process.
    """

    def __init__(self, app: ASGIApp, audit: Audit, clock: Clock) -> None:
        self._app = app
        self._audit = audit
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["state"]["rule"].action is None:
            await self._app(scope, receive, send)
            return
        entry, status, is_replayed = entry_of(scope, self._clock), None, False

        async def send_and_note(message: Message) -> None:
            nonlocal status, is_replayed
            if message["type"] == "http.response.start":
                status = message["status"]
                is_replayed = any(name.lower() == REPLAYED.lower().encode() for name, _ in message["headers"])
            await send(message)

        if self._audit.is_full and not await run_in_threadpool(self._has_flushed):
            await service_problem(entry.request_id or "", DatabaseUnavailable(FULL))(scope, receive, send)
            return
        try:
            with audited(entry):
                await self._app(scope, receive, send_and_note)
        except Exception:
            status = status or HTTPStatus.INTERNAL_SERVER_ERROR  # as `RequestLog` will answer
            raise
        finally:
            outcome = "replayed" if is_replayed else outcome_of(status)
            is_nobody = scope["state"]["rule"].role is None and outcome != DONE  # the log has a line
            is_unwritten = outcome != DONE or not entry.is_written
            if is_unwritten and not is_nobody and not scope["state"].get("is_refused"):
                entry.outcome = outcome
                self._audit.queue(entry)

    def _has_flushed(self) -> bool:
        try:
            self._audit.flush()
        except (ServiceError, SQLAlchemyError, OSError) as error:
            logger.warning("rows of the audit wait for the database", reason=str(error))
            return False
        return True
