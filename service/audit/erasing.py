"""Erasure in the audit: the words about a person go, and a keyed hash takes their place."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import structlog
from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from service.audit.chain import cleared_words, commitment_of, erased_words, keyed_hash
from service.audit.entries import Entry, Person
from service.audit.secret import Secret
from service.store.audit_tables import AuditPerson, AuditQuery, AuditRow
from service.store.database import pages
from service.store.doomed import mark_doomed
from service.store.tables import Erasure, Identity

logger = structlog.get_logger(__name__)

MOST_NAMED = 20
UNFIT = (
    "an erasure has cleared words of the audit that were changed in the database before; "
    "`reid audit verify` goes on naming the rows"
)


class Cleared(NamedTuple):
    """What an erasure has cleared in the audit.

    Attributes:
        num_mentions: mentions of people.
        hashes: the keyed hashes of the names, which take their place.
        num_queries: kept crops of queries that had to do with these people.
    """

    num_mentions: int
    hashes: list[str]
    num_queries: int


def erase_people(
    session: Session, secret: Secret, identity_ids: Collection[str], item_ids: Collection[str]
) -> Cleared:
    """Clear what the audit says of identities and of items, and the crops of the queries that found them.

    Words that were changed outside the service are cleared too, because they name the person. They get no
    seal, because it would hide that somebody has changed what the row said.

    Args:
        session: the transaction of the erasure.
        secret: the secret of the audit.
        identity_ids: every name of the erased identities.
        item_ids: the erased items.
    """
    hashes = {keyed_hash(secret, name) for name in identity_ids}
    num, sequences, unfit = 0, set[int](), set[int]()
    mentions = select(AuditPerson, AuditRow).join(AuditRow, AuditRow.sequence == AuditPerson.sequence)
    for condition in _conditions(identity_ids, item_ids):
        for person, row in session.execute(mentions.where(condition)).all():
            if not _clear(secret, person, row):
                unfit.add(row.sequence)
            hashes.add(person.erased_as or "")
            sequences.add(row.sequence)
            num += 1
        session.flush()
    if unfit:
        logger.error(UNFIT, num_rows=len(unfit), rows=sorted(unfit)[:MOST_NAMED])
    return Cleared(num, sorted(hashes), _erase_queries(session, sequences))


def _clear(secret: Secret, person: AuditPerson, row: AuditRow) -> bool:
    """Clear the words about a person, and return whether they were the words of the row."""
    committed = dict(enumerate(row.commitments)).get(person.place)
    is_fit = committed is not None and commitment_of(person) == committed
    words = cleared_words(secret, person.identity_id)
    if is_fit:
        words = erased_words(secret, row, person.place, person.identity_id)
    for name, value in words.items():
        setattr(person, name, value)
    return is_fit


def _erase_queries(session: Session, sequences: Collection[int]) -> int:
    num = 0
    for page in pages(sequences):
        kept = session.scalars(select(AuditQuery.sha256).where(AuditQuery.sequence.in_(page))).all()
        mark_doomed(session, set(kept))
        session.execute(delete(AuditQuery).where(AuditQuery.sequence.in_(page)))
        num += len(kept)
    return num


def erased_people(session: Session, secret: Secret, entries: Sequence[Entry]) -> set[Person]:
    """Return the people of entries who are not there any more because they were erased.

    Their keyed hash is in a receipt. People who were deleted or merged since are not among them: the audit
    has to go on naming them.
    """
    people = {person for entry in entries for person in entry.people if person.identity_id is not None}
    named = {str(person.identity_id) for person in people}
    gone = named - {
        found
        for page in pages(sorted(named))
        for found in session.scalars(select(Identity.id).where(Identity.id.in_(page)))
    }
    if not gone:
        return set()
    receipts = session.scalars(select(Erasure.erased))
    hashes = {one for erased in receipts for one in erased.get("audit_hashes", ())}
    erased = {name for name in gone if keyed_hash(secret, name) in hashes}
    return {person for person in people if person.identity_id in erased}


def _conditions(identity_ids: Collection[str], item_ids: Collection[str]) -> Iterator[ColumnElement[bool]]:
    for names in pages(identity_ids):
        yield AuditPerson.identity_id.in_(names)
    for ids in pages(item_ids):
        yield AuditPerson.item_id.in_(ids)
