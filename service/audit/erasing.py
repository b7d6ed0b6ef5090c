"""Erasure in the audit: the words about a person go, and a keyed hash takes their place."""

from collections.abc import Collection, Iterator, Sequence

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.audit.chain import erased_words
from service.audit.entries import Entry, Person
from service.audit.secret import Secret
from service.store.audit_tables import AuditPerson, AuditRow
from service.store.database import pages
from service.store.tables import Identity, Item


def erase_people(
    session: Session, secret: Secret, identity_ids: Collection[str], item_ids: Collection[str]
) -> tuple[int, list[str]]:
    """Clear what the audit says of identities and of items.

    Args:
        session: the transaction of the erasure.
        secret: the secret of the audit.
        identity_ids: every name of the erased identities.
        item_ids: the erased items.

    Returns:
        How many mentions were cleared, and the keyed hashes that are left in their place.
    """
    hashes: set[str] = set()
    num = 0
    mentions = select(AuditPerson, AuditRow).join(AuditRow, AuditRow.sequence == AuditPerson.sequence)
    for condition in _conditions(identity_ids, item_ids):
        for person, row in session.execute(mentions.where(condition)).all():
            for name, value in erased_words(secret, row, person.place, person.identity_id).items():
                setattr(person, name, value)
            hashes.add(person.erased_as or "")
            num += 1
        session.flush()
    return num, sorted(hashes)


def gone_people(session: Session, entries: Sequence[Entry]) -> set[Person]:
    """Return the people of entries whose identity, or whose item, is not there any more."""
    people = {person for entry in entries for person in entry.people}
    identity_ids = _known(session, Identity.id, {person.identity_id for person in people} - {None})
    item_ids = _known(session, Item.id, {person.item_id for person in people} - {None})
    return {
        person
        for person in people
        if (person.identity_id is not None and person.identity_id not in identity_ids)
        or (person.item_id is not None and person.item_id not in item_ids)
    }


def _known(session: Session, column: InstrumentedAttribute[str], values: Collection[str | None]) -> set[str]:
    return {
        found for page in pages(values) for found in session.scalars(select(column).where(column.in_(page)))
    }


def _conditions(identity_ids: Collection[str], item_ids: Collection[str]) -> Iterator[ColumnElement[bool]]:
    for names in pages(identity_ids):
        yield AuditPerson.identity_id.in_(names)
    for ids in pages(item_ids):
        yield AuditPerson.item_id.in_(ids)
