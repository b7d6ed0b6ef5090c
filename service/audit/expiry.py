"""Rows whose retention is over: they are checked before they go, because nobody can check them later."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.audit.chain import (
    UNREADABLE,
    Head,
    begins_whole,
    expiry_seal,
    is_mac,
    is_number,
    is_sealed,
    locked_chain,
)
from service.audit.secret import Secret
from service.errors import AuditBroken
from service.store.audit_tables import AuditChain, AuditPerson, AuditQuery, AuditRow
from service.store.doomed import mark_doomed

EXPIRED_AT_ONCE = 5_000


class Expired(NamedTuple):
    """Rows that were deleted: from which to which, none if `last` is before `first`.

    `was_sealed` is whether the beginning of the chain had been sealed by the secret that seals the new one.
    """

    first: int
    last: int
    was_sealed: bool

    @property
    def num_rows(self) -> int:
        """Return how many rows were deleted."""
        return self.last - self.first + 1


def delete_expired(
    session: Session, secret: Secret, oldest: datetime, lost: Collection[str] = frozenset()
) -> Expired:
    """Delete rows that are older than a time, and seal where the chain begins now.

    Args:
        session: a transaction that writes.
        secret: the secret that seals the beginning.
        oldest: the time; rows of this time or later stay.
        lost: names of secrets that are lost. Their rows expire unchecked, because nobody can check them.

    Returns:
        Which rows were deleted, at most `EXPIRED_AT_ONCE`.

    Raises:
        AuditBroken: one of these rows is not as it was sealed, or rows are missing. The transaction must be
            rolled back: a new beginning would hide what was changed before it.
    """
    chain = locked_chain(session)
    was_sealed = begins_whole([secret], chain)
    try:
        first, newest = chain.expired + 1, _newest_expired(session, secret, chain, oldest, lost)
    except UNREADABLE as error:
        raise AuditBroken("a row was changed: it has a value that cannot be read") from error
    if newest.sequence < first:
        return Expired(first, first - 1, was_sealed)
    chain.expired, chain.expired_mac = newest.sequence, newest.mac
    chain.expired_seal = expiry_seal(secret, chain.expired, chain.expired_mac)
    queries = select(AuditQuery.sha256).where(AuditQuery.sequence.between(first, newest.sequence))
    mark_doomed(session, set(session.scalars(queries)))
    for table in (AuditQuery, AuditPerson, AuditRow):
        session.execute(delete(table).where(table.sequence.between(first, newest.sequence)))
    return Expired(first, newest.sequence, was_sealed)


def _newest_expired(
    session: Session, secret: Secret, chain: AuditChain, oldest: datetime, lost: Collection[str]
) -> Head:
    """Return the newest row that may go now, after a check of each row up to it.

    The seal of a row covers its time, so a row that was made older than it is does not pass.
    """
    is_unsealed = bool(lost) and is_number(chain.expired) and is_mac(chain.expired_mac)
    if not (is_unsealed or begins_whole([secret], chain)):
        raise AuditBroken(
            f"the beginning of the chain, after row {chain.expired}, is not sealed by this secret"
        )
    before = Head(chain.expired, chain.expired_mac)
    old = select(AuditRow).where(AuditRow.at < oldest).order_by(AuditRow.sequence).limit(EXPIRED_AT_ONCE)
    for row in session.scalars(old).all():
        if row.sequence > before.sequence + 1:  # a clock was set back; the row waits for those before it
            _check(secret, before, session.get(AuditRow, before.sequence + 1), lost)
            break
        before = _check(secret, before, row, lost)
        if row.sealed_by == secret.name:
            lost = frozenset()  # a secret that is lost seals no row after this one
    return before


def _check(secret: Secret, before: Head, row: AuditRow | None, lost: Collection[str]) -> Head:
    """Check a row against the one before, and return it as the next one before."""
    if row is None:
        raise AuditBroken(f"row {before.sequence + 1} is missing")
    if row.sequence <= before.sequence:
        raise AuditBroken(f"row {row.sequence} was added before the beginning of the chain")
    if row.sealed_by in lost and is_mac(row.mac):
        return Head(row.sequence, row.mac)
    if row.sealed_by != secret.name:
        raise AuditBroken(f"row {row.sequence} is sealed by another secret, {row.sealed_by}")
    if not is_sealed(secret, before.mac, row):
        raise AuditBroken(f"row {row.sequence} was changed, or is not where it was")
    return Head(row.sequence, row.mac)
