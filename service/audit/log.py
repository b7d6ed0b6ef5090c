"""The audit of one process: rows of changes go with their transaction, rows of searches in batches."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from threading import Lock

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from service import metrics
from service.audit.chain import UNREADABLE, append, head_of
from service.audit.entries import Entry, current, forget, record
from service.audit.erasing import erased_people
from service.audit.expiry import Expired, delete_expired
from service.audit.secret import Secret, open_secret
from service.errors import AuditBroken
from service.store.audit_tables import AuditRow
from service.store.doomed import mark_doomed
from service.store.store import Store

logger = structlog.get_logger(__name__)

MAX_QUEUED = 5_000
"""Rows that may wait for the next batch. A request that finds more writes them first, or is refused."""


class Audit:
    """Writes what the requests of one process do.

    Args:
        store: the gallery; its commits write the entry of their context from now on.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._secret: Secret | None = None
        self._queue: deque[Entry] = deque()
        self._lock = Lock()
        self._fault = ""
        store.sealing = self.seal

    @property
    def is_full(self) -> bool:
        """Return whether so many rows wait that a request has to write them before it begins."""
        return len(self._queue) > MAX_QUEUED

    @property
    def num_queued(self) -> int:
        """Return how many rows wait to be written."""
        return len(self._queue)

    @contextmanager
    def seal(self, session: Session) -> Iterator[None]:
        """Write the entry of this context at the end of a transaction, once, if something was recorded in it.

        What was recorded by a transaction that fails is forgotten, so no later one of the request writes it.
        """
        try:
            yield
            entry = current()
            if entry is not None and entry.is_recorded and not entry.is_written:
                self._append(session, [entry])
                entry.is_written = True
        except BaseException:
            forget()
            raise

    def queue(self, entry: Entry) -> None:
        """Queue an entry for the next batch, which is written within a second, without waiting."""
        self._queue.append(entry)
        metrics.AUDIT_QUEUED.set(len(self._queue))

    def flush(self) -> None:
        """Write the entries that are queued.

        No word is written about people who were erased since.
        """
        with self._lock:
            entries = [self._queue.popleft() for _ in range(len(self._queue))]
            if not entries:
                return
            try:
                self._write(entries)
            except DataError:
                self._write_each(deque(entries))
            except BaseException:
                self._put_back(entries)
                raise
            metrics.AUDIT_QUEUED.set(len(self._queue))

    def _write(self, entries: Sequence[Entry]) -> None:
        with self._store.write() as session:
            self._append(session, entries)

    def _append(self, session: Session, entries: Sequence[Entry]) -> None:
        secret = self._the_secret()
        erased = erased_people(session, secret, entries)
        for entry in entries:
            if not erased.isdisjoint(entry.people):
                mark_doomed(session, entry.kept_queries)
        append(session, secret, entries, erased)

    def _write_each(self, left: deque[Entry]) -> None:
        """Write entries one by one, so that one which the database refuses holds back no other."""
        try:
            while left:
                try:
                    self._write([left[0]])
                except DataError as error:
                    reason, request_id = str(error.orig), left[0].request_id
                    logger.error("a row of the audit is lost", request_id=request_id, reason=reason)  # noqa: TRY400
                left.popleft()
        except BaseException:
            self._put_back(left)
            raise

    def _put_back(self, entries: Iterable[Entry]) -> None:
        self._queue.extendleft(reversed([*entries]))

    def say_head(self) -> None:
        """Log the head of the chain, so that an end that is cut off later is found."""
        with self._store.read() as session:
            head = head_of(session)
        logger.info("audit", head=str(head))

    def expire(self) -> None:
        """Delete the rows that are older than REID_AUDIT_DAYS, and seal where the chain begins now.

        No row goes if one of them is not as it was sealed. The same fault in successive runs is logged once.
        """
        oldest = self._store.clock.now() - self._store.settings.audit_keep
        try:
            if not self._has_older(oldest):
                return
            with self._store.write() as session:
                delete_expired(session, self._the_secret(), oldest)
        except AuditBroken as error:
            if self._fault != (fault := str(error)):
                logger.error("no row of the audit expires; run `reid audit verify`", reason=fault)  # noqa: TRY400
            self._fault = fault
            return
        self._fault = ""
        self._store.purge_doomed()

    def expire_lost(self, name: str) -> Expired:
        """Delete the rows that are older than REID_AUDIT_DAYS, also those that a lost secret has sealed.

        A row of the audit says which rows went, and whether the beginning of the chain had a seal that could
        be checked: what was changed among rows that nobody can check is hidden by the new beginning.

        Args:
            name: the name of the secret, as rows and faults have it.

        Returns:
            Which rows were deleted.

        Raises:
            AuditBroken: a row that can be checked is not as it was sealed, or rows are missing; or the secret
                is not lost, and its rows must be checked.
        """
        if name == self._the_secret().name:
            raise AuditBroken(
                f"{name} is the secret of this gallery, so its rows expire only as they were sealed"
            )
        oldest, secret = self._store.clock.now() - self._store.settings.audit_keep, self._the_secret()
        with self._store.write() as session:
            found = newest = delete_expired(session, secret, oldest, {name})
            while newest.num_rows:
                found = found._replace(last=newest.last)
                newest = delete_expired(session, secret, oldest, {name})
            record((), first=found.first, last=found.last, was_sealed=found.was_sealed)
        self._store.purge_doomed()
        return found

    def _has_older(self, oldest: datetime) -> bool:
        """Return whether the first row is older than a time.

        Raises:
            AuditBroken: the row has a value that cannot be read.
        """
        try:
            with self._store.read() as session:
                first = session.scalar(select(AuditRow.at).order_by(AuditRow.sequence).limit(1))
        except UNREADABLE as error:
            raise AuditBroken("the first row was changed: its time cannot be read") from error
        return first is not None and first < oldest

    def _the_secret(self) -> Secret:
        if self._secret is None:
            self._secret = open_secret(self._store.settings)
        return self._secret
