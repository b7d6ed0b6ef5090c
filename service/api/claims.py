"""The claims on Idempotency-Keys in the database, and the answers that are kept under the keys.

The first request claims the key in the database, so every process recognises a repeat. If the request
succeeds, its answer is kept for 24 hours. If the request fails, it has changed nothing, so the claim is
deleted. An enrolment keeps its answer in the transaction that adds the items, so a crash cannot separate the
items from the answer.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from starlette.types import Scope

from service.errors import IdempotencyInProgress, IdempotencyMismatch
from service.jobs.jobs import LEASE, SECOND_LOOK_S
from service.store.store import Store
from service.store.tables import Erasure, Gallery, KeptAnswer, Retention, now

KEPT_FOR = timedelta(hours=24)


@dataclass
class Claim:
    """Ownership of an Idempotency-Key by one request in progress.

    Attributes:
        key: the key.
        fingerprint: hash of the request, in hex. A repeat of the request has the same hash.
        taken_at: time of the claim. A request that takes over an abandoned claim has a later time.
        newest_erasure: the number of the newest erasure before the request.
        answer: status, header Location and body, once the request has succeeded.
    """

    key: str
    fingerprint: str
    taken_at: datetime = field(default_factory=now)
    newest_erasure: int = 0
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
        moment, claim.newest_erasure = claim.taken_at, _newest_erasure(session)
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
        """End a claim: keep the answer of a request that has succeeded, or delete the claim.

        No answer is kept if a person was erased during the request, because the answer may name that person.
        """
        with self._lock:
            self._keys.discard(claim.key)
        with self.store.write() as session:
            if claim.answer is not None and session.scalar(select(KeptAnswer.key).where(*_is_open(claim))):
                session.execute(select(Gallery.newest_change).with_for_update())  # holds erasures back
                if _newest_erasure(session) == claim.newest_erasure:
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


def _newest_erasure(session: Session) -> int:
    return session.scalar(select(func.max(Erasure.sequence))) or 0


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
