"""Erasure in the audit: the words about a person go, and a keyed hash takes their place."""

from collections.abc import Collection, Iterator, Sequence

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from service.audit.chain import erased_words, keyed_hash
from service.audit.entries import Entry, Person
from service.audit.secret import Secret
from service.store.audit_tables import AuditPerson, AuditRow
from service.store.database import pages
from service.store.tables import Erasure, Identity


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
        How many mentions were cleared, and the keyed hashes of the names, which take their place.
    """
    hashes = {keyed_hash(secret, name) for name in identity_ids}
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
