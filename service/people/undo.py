"""Undo an operation: move its items back, and restore the descriptions of its identities."""

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from model.data.names import normalise_name
from service.audit.entries import record
from service.errors import CannotUndo
from service.gallery.items import delete_empty_identities
from service.gallery.metadata import one_form, stored_form
from service.keys.callers import acting_key_id
from service.people.identities import set_attributes
from service.people.operations import Description, describe_identity, read_operation, with_attributes
from service.store.database import pages
from service.store.store import Store
from service.store.tables import FormerIdentity, Identity, Item, Move, Operation, Rejection, now


def undo(store: Store, operation_id: str) -> Operation:
    """Undo an operation, except for its items that were deleted since.

    Raises:
        OperationNotFound: there is no such operation.
        CannotUndo: the operation was undone already, or a later change is in the way; nothing is changed.
    """
    with store.change() as change:
        session = change.session
        operation = read_operation(session, operation_id)
        if operation.undone_at is not None:
            raise CannotUndo("the operation was undone already")
        formers = session.scalars(
            select(FormerIdentity).where(FormerIdentity.operation_id == operation_id)
        ).all()
        for former in formers:
            _restore(session, former)
        for from_key, slots in _moves_back(session, operation_id).items():
            for page in pages(slots):
                session.execute(update(Item).where(Item.slot.in_(page)).values(identity_key=from_key))
            for slot in slots:
                change.note("updated", slot)
        delete_empty_identities(session, [former.identity_key for former in formers])
        operation.undone_at, operation.undone_by = now(), acting_key_id()
        record(operation_id=operation_id, kind=operation.kind)
    return operation


def _moves_back(session: Session, operation_id: str) -> dict[int, list[int]]:
    """Return the slots of the items of an operation by the key of the identity that they came from.

    Raises:
        CannotUndo: an item was moved again since, or an identity that items came from was deleted since.
    """
    statement = (
        select(Move.slot, Move.from_key, Move.to_key, Item.identity_key, Item.id)
        .join(Item, Item.slot == Move.slot)
        .where(Move.operation_id == operation_id)
        .order_by(Move.slot)
    )
    back: dict[int, list[int]] = {}
    for slot, from_key, to_key, key, item_id in session.execute(statement):
        if key != to_key:
            raise CannotUndo(f"item {item_id} was moved to another identity since")
        back.setdefault(from_key, []).append(slot)
    if back.keys() - set(session.scalars(select(Identity.key).where(Identity.key.in_(back)))):
        raise CannotUndo("an identity that the items came from was deleted since")
    return back


def _restore(session: Session, former: FormerIdentity) -> None:
    """Restore an identity as it was before the operation.

    A description that was changed after the operation stays as it is.

    Raises:
        CannotUndo: the operation deleted the identity, and another identity has its id now.

    Names come back in one Unicode form, except for an id whose form another identity has.
    """
    before, after = former.before, former.after
    if before is None:
        return
    if after is None:
        created_at = datetime.fromisoformat(before["created_at"])
        identity_id = _free_id(session, before["id"])
        identity = Identity(key=former.identity_key, id=identity_id, created_at=created_at, attributes=[])
        session.add(identity)
        _set_description(identity, before)
    else:
        found = session.scalar(with_attributes().where(Identity.key == former.identity_key))
        if found is None:
            return
        if _plain(describe_identity(session, found.key)) == _plain(after):
            _set_description(found, before)
    session.flush()
    _restore_rejections(
        session, former.identity_key, set(before["rejections"]), set((after or {}).get("rejections", ()))
    )


def _free_id(session: Session, identity_id: str) -> str:
    """Return the id for an identity that had this id, in one Unicode form unless another identity has that.

    Raises:
        CannotUndo: another identity has exactly this id.
    """
    composed = stored_form(identity_id)
    taken = set(session.scalars(select(Identity.id).where(Identity.id.in_({identity_id, composed}))))
    if identity_id in taken:
        raise CannotUndo(f"another identity has the id {identity_id!r} now")
    return identity_id if composed in taken else composed


def _restore_rejections(session: Session, key: int, before: set[int], after: set[int]) -> None:
    for page in pages(after - before):
        session.execute(delete(Rejection).where(Rejection.identity_key == key, Rejection.slot.in_(page)))
    for page in pages(before - after):
        for slot in session.scalars(select(Item.slot).where(Item.slot.in_(page))):
            session.merge(Rejection(identity_key=key, slot=slot, created_at=now()))
    session.flush()


def _set_description(identity: Identity, description: Description) -> None:
    identity.name = description["name"] and stored_form(description["name"])
    identity.notes = description["notes"]
    identity.is_kept = description["is_kept"]
    set_attributes(identity, one_form(description["attributes"]))


def _plain(description: Description | None) -> Description | None:
    """Return a description for a comparison: names in one form, and no rejections."""
    return description and {
        **{name: value for name, value in description.items() if name != "rejections"},
        "id": normalise_name(description["id"]),
        "name": description["name"] and normalise_name(description["name"]),
        "attributes": one_form(description["attributes"]),
    }
