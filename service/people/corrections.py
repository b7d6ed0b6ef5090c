"""Correct who is who: merge, split, relabel and reject, each written down so that it can be undone.

An operation changes the gallery and notes, in the same transaction, which items went from where to where, and
what was said before and after of every identity that it touched.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, selectinload

from service.errors import CannotUndo, GalleryItemNotFound, ItemElsewhere, OperationNotFound
from service.gallery.items import delete_empty_identities, find_identity
from service.people.identities import set_attributes
from service.store.changes import Transaction
from service.store.database import pages
from service.store.store import Store
from service.store.tables import FormerIdentity, Identity, Item, Move, Operation, Rejection, new_id, now

Description = dict[str, Any]


class Recording:
    """An operation under way, in the transaction of `change`."""

    def __init__(self, change: Transaction, kind: str) -> None:
        self._change = change
        self.session = change.session
        self.operation = Operation(id=new_id(), kind=kind, created_at=now())
        self.session.add(self.operation)
        self.session.flush()
        self._before: dict[int, Description | None] = {}

    def touch(self, *keys: int) -> None:
        """Remember what is said of these identities, before it is changed."""
        for key in keys:
            if key not in self._before:
                self._before[key] = _description(self.session, key)

    def make(self, identity_id: str) -> Identity:
        """Make an identity."""
        identity = Identity(id=identity_id, created_at=now(), attributes=[])
        self.session.add(identity)
        self.session.flush()
        self._before[identity.key] = None
        return identity

    def move(self, slots: Sequence[int], to_key: int) -> None:
        """Give items to an identity, against which none of them counts as rejected any more."""
        for page in pages(slots):
            rows = self.session.execute(select(Item.slot, Item.identity_key).where(Item.slot.in_(page)))
            moves = [(slot, key) for slot, key in rows if key != to_key]
            self.touch(to_key, *{key for _, key in moves})
            self.session.execute(
                delete(Rejection).where(Rejection.identity_key == to_key, Rejection.slot.in_(page))
            )
            self.session.execute(update(Item).where(Item.slot.in_(page)).values(identity_key=to_key))
            for slot, from_key in moves:
                self.session.add(
                    Move(operation_id=self.operation.id, slot=slot, from_key=from_key, to_key=to_key)
                )
                self._change.note("updated", slot)
        self.session.flush()

    def finish(self) -> Operation:
        """Write down what is said of the identities now; those left empty go, unless they are kept."""
        self.session.flush()
        delete_empty_identities(self.session, list(self._before))
        self.session.expire_all()
        for key, before in self._before.items():
            after = _description(self.session, key)
            self.session.add(
                FormerIdentity(operation_id=self.operation.id, identity_key=key, before=before, after=after)
            )
        self.session.flush()
        return self.operation


def merge(store: Store, identity_id: str, source_ids: Iterable[str]) -> Operation:
    """Give the items of other identities to this one, and do away with them.

    It keeps what is said of it, and takes from them, in their order, what it lacks.

    Raises:
        IdentityNotFound: one of them is not there; nothing is changed.
    """
    with store.change() as change:
        target = find_identity(change.session, identity_id)
        sources = [find_identity(change.session, source_id) for source_id in dict.fromkeys(source_ids)]
        recording = Recording(change, "merge")
        recording.touch(target.key, *(source.key for source in sources))
        for source in sources:
            _take_description(target, source)
            slots = change.session.scalars(select(Item.slot).where(Item.identity_key == source.key)).all()
            recording.move(slots, target.key)
            _take_rejections(change.session, target.key, source.key)
            change.session.execute(delete(Identity).where(Identity.key == source.key))
        return recording.finish()


def split(store: Store, identity_id: str, item_ids: Sequence[str], to_id: str | None) -> Operation:
    """Give items of an identity to another, which is made if it is not there; by default to a new one.

    Raises:
        IdentityNotFound: there is no such identity.
        GalleryItemNotFound: one of the items is not there.
        ItemElsewhere: one of the items is of another identity.
    """
    with store.change() as change:
        identity = find_identity(change.session, identity_id)
        items = _items(change.session, item_ids)
        for item in items:
            if item.identity_key != identity.key:
                raise ItemElsewhere(item.id, identity_id)
        recording = Recording(change, "split")
        recording.move([item.slot for item in items], _find_or_make(recording, to_id).key)
        return recording.finish()


def reject(store: Store, identity_id: str, item_ids: Sequence[str]) -> Operation:
    """Say that items do not show an identity; those that are in it leave it.

    Those of one track stay together, under an identity of their own, as nobody has said who they are.

    Raises:
        IdentityNotFound: there is no such identity.
        GalleryItemNotFound: one of the items is not there.
    """
    with store.change() as change:
        identity = find_identity(change.session, identity_id)
        items = _items(change.session, item_ids)
        recording = Recording(change, "reject")
        recording.touch(identity.key)
        groups: dict[object, list[int]] = {}
        for item in items:
            change.session.merge(Rejection(identity_key=identity.key, slot=item.slot, created_at=now()))
            if item.identity_key == identity.key:
                group = (item.camera_id, item.track_id) if item.track_id else item.slot
                groups.setdefault(group, []).append(item.slot)
        change.session.flush()
        for slots in groups.values():
            recording.move(slots, recording.make(new_id()).key)
        return recording.finish()


def correct_item(store: Store, item_id: str, corrections: Mapping[str, Any]) -> tuple[Item, Operation | None]:
    """Change an item's identity_id (None: one of its own), camera_id, captured_at or track_id.

    Only the change of the identity is an operation.

    Raises:
        GalleryItemNotFound: there is no such item.
    """
    with store.change() as change:
        (item,) = _items(change.session, [item_id])
        for field in corrections.keys() & {"camera_id", "captured_at", "track_id"}:
            setattr(item, field, corrections[field])
        change.note("updated", item.slot)
        operation = None
        if "identity_id" in corrections and corrections["identity_id"] != item.identity.id:
            recording = Recording(change, "relabel")
            recording.move([item.slot], _find_or_make(recording, corrections["identity_id"]).key)
            operation = recording.finish()
        change.session.flush()
        change.session.refresh(item)
    return item, operation


def find_operation(store: Store, operation_id: str) -> Operation:
    """Return an operation.

    Raises:
        OperationNotFound: there is none.
    """
    with store.read() as session:
        return _operation(session, operation_id)


def list_operations(store: Store, limit: int, before: str) -> tuple[list[Operation], str | None]:
    """Return operations, the newest first, and the id to go on before; by default from the newest.

    Ids sort by the time they were made.
    """
    statement = select(Operation).order_by(Operation.id.desc()).limit(limit + 1)
    if before:
        statement = statement.where(Operation.id < before)
    with store.read() as session:
        found = list(session.scalars(statement))
    return found[:limit], None if len(found) <= limit else found[limit - 1].id


def undo(store: Store, operation_id: str) -> Operation:
    """Put back what an operation has changed; items that are gone by now are left out.

    Raises:
        OperationNotFound: there is no such operation.
        CannotUndo: it was undone before, or what came later stands in the way; nothing is changed.
    """
    with store.change() as change:
        session = change.session
        operation = _operation(session, operation_id)
        if operation.undone_at is not None:
            raise CannotUndo("it was undone already")
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
        operation.undone_at = now()
    return operation


def _moves_back(session: Session, operation_id: str) -> dict[int, list[int]]:
    """Return the slots of an operation that are still there, by whose they were.

    Raises:
        CannotUndo: one of them has gone to yet another identity since, or whose it was has gone.
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
            raise CannotUndo(f"item {item_id} has been given to another identity since")
        back.setdefault(from_key, []).append(slot)
    if back.keys() - set(session.scalars(select(Identity.key).where(Identity.key.in_(back)))):
        raise CannotUndo("an identity that its items came from has gone since")
    return back


def _restore(session: Session, former: FormerIdentity) -> None:
    """Let an identity be what it was before, but for what was said of it later.

    Raises:
        CannotUndo: it is gone, and its id has been given to another since.
    """
    before, after = former.before, former.after
    if before is None:
        return
    if after is None:
        if session.scalar(select(Identity.key).where(Identity.id == before["id"])) is not None:
            raise CannotUndo(f"there is an identity {before['id']!r} again")
        created_at = datetime.fromisoformat(before["created_at"])
        identity = Identity(key=former.identity_key, id=before["id"], created_at=created_at, attributes=[])
        session.add(identity)
        _say(identity, before)
    else:
        found = session.scalar(_with_attributes().where(Identity.key == former.identity_key))
        if found is None:
            return
        if _plain(_description(session, found.key)) == _plain(after):
            _say(found, before)
    session.flush()
    _restore_rejections(
        session, former.identity_key, set(before["rejections"]), set((after or {}).get("rejections", ()))
    )


def _restore_rejections(session: Session, key: int, before: set[int], after: set[int]) -> None:
    for page in pages(after - before):
        session.execute(delete(Rejection).where(Rejection.identity_key == key, Rejection.slot.in_(page)))
    for page in pages(before - after):
        for slot in session.scalars(select(Item.slot).where(Item.slot.in_(page))):
            session.merge(Rejection(identity_key=key, slot=slot, created_at=now()))
    session.flush()


def _say(identity: Identity, description: Description) -> None:
    identity.name, identity.notes = description["name"], description["notes"]
    identity.is_kept = description["is_kept"]
    set_attributes(identity, description["attributes"])


def _description(session: Session, key: int) -> Description | None:
    """Return all there is to say of an identity, fit for JSON."""
    identity = session.scalar(_with_attributes().where(Identity.key == key))
    if identity is None:
        return None
    slots = session.scalars(
        select(Rejection.slot).where(Rejection.identity_key == key).order_by(Rejection.slot)
    )
    return {
        "id": identity.id,
        "name": identity.name,
        "notes": identity.notes,
        "is_kept": identity.is_kept,
        "attributes": {row.name: row.value for row in identity.attributes},
        "created_at": identity.created_at.isoformat(),
        "rejections": list(slots),
    }


def _plain(description: Description | None) -> Description | None:
    """Leave out the rejections, which are put back one by one."""
    return description and {name: value for name, value in description.items() if name != "rejections"}


def _with_attributes() -> Any:
    return (
        select(Identity).options(selectinload(Identity.attributes)).execution_options(populate_existing=True)
    )


def _take_description(target: Identity, source: Identity) -> None:
    target.name = target.name or source.name
    target.notes = target.notes or source.notes
    target.is_kept = target.is_kept or source.is_kept
    known = {row.name: row.value for row in target.attributes}
    set_attributes(target, {row.name: row.value for row in source.attributes} | known)


def _take_rejections(session: Session, to_key: int, from_key: int) -> None:
    """Let what was rejected for one identity be rejected for another, but for the other's own items."""
    own = select(Item.slot).where(Item.identity_key == to_key)
    statement = select(Rejection.slot).where(Rejection.identity_key == from_key, Rejection.slot.not_in(own))
    for slot in session.scalars(statement).all():
        session.merge(Rejection(identity_key=to_key, slot=slot, created_at=now()))
    session.execute(delete(Rejection).where(Rejection.identity_key == to_key, Rejection.slot.in_(own)))


def _find_or_make(recording: Recording, identity_id: str | None) -> Identity:
    if identity_id is not None:
        found = recording.session.scalar(select(Identity).where(Identity.id == identity_id))
        if found is not None:
            return found
    return recording.make(identity_id or new_id())


def _items(session: Session, item_ids: Sequence[str]) -> list[Item]:
    found = {item.id: item for item in session.scalars(select(Item).where(Item.id.in_(item_ids)))}
    for item_id in item_ids:
        if item_id not in found:
            raise GalleryItemNotFound(item_id)
    return list(found.values())


def _operation(session: Session, operation_id: str) -> Operation:
    operation = session.get(Operation, operation_id)
    if operation is None:
        raise OperationNotFound(operation_id)
    return operation
