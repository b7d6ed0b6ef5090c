"""Operations: the records of merges, splits, rejections and relabels, by which these can be undone.

The transaction of an operation changes the gallery and records the operation. The record has the items that
moved and their identities before and after, and the description of every identity that was touched, before
and after.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session, selectinload

from service.audit.entries import Person, record
from service.errors import OperationNotFound
from service.gallery.conditions import spellings
from service.gallery.items import delete_empty_identities
from service.keys.callers import acting_key_id
from service.store.changes import Transaction
from service.store.database import pages
from service.store.key_tables import Key
from service.store.store import Store
from service.store.tables import FormerIdentity, Identity, Item, Move, Operation, Rejection, new_id, now

MAX_MOVED = 100
"""Moved items that are shown of one operation."""

Description = dict[str, Any]
"""The description of an identity, as `describe_identity` returns it."""


class Recording:
    """An operation in progress, in the transaction of `change`."""

    def __init__(self, change: Transaction, kind: str) -> None:
        self._change = change
        self.session = change.session
        self.operation = Operation(id=new_id(), kind=kind, created_at=now(), key_id=acting_key_id())
        self.session.add(self.operation)
        self.session.flush()
        self._before: dict[int, Description | None] = {}

    def touch(self, *keys: int) -> None:
        """Record the descriptions of these identities, before they are changed."""
        for key in keys:
            if key not in self._before:
                self._before[key] = describe_identity(self.session, key)

    def make(self, identity_id: str) -> Identity:
        """Make an identity, and record that the operation made it."""
        identity = Identity(id=identity_id, created_at=now(), attributes=[])
        self.session.add(identity)
        self.session.flush()
        self._before[identity.key] = None
        return identity

    def move(self, slots: Sequence[int], to_key: int) -> None:
        """Move items to an identity, record the moves, and delete the rejections of the items for it."""
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
        """Delete identities that are left empty, unless they are kept, and record the new descriptions."""
        self.session.flush()
        delete_empty_identities(self.session, list(self._before))
        self.session.expire_all()
        for key, before in self._before.items():
            after = describe_identity(self.session, key)
            self.session.add(
                FormerIdentity(operation_id=self.operation.id, identity_key=key, before=before, after=after)
            )
        self.session.flush()
        record(self._people(), operation_id=self.operation.id, kind=self.operation.kind)
        return self.operation

    def _people(self) -> Iterator[Person]:
        """Return for the audit the identities of the operation, and the items that it has moved."""
        named = dict(
            self.session.execute(
                select(Identity.key, Identity.id).where(Identity.key.in_(self._before))
            ).all()
        )
        for key, before in self._before.items():
            yield Person("target", named[key] if before is None else before["id"])
        moved = select(Item.id, Identity.id).join(Item.identity).join(Move, Move.slot == Item.slot)
        for item_id, identity_id in self.session.execute(moved.where(Move.operation_id == self.operation.id)):
            yield Person("to", identity_id, item_id)


@dataclass(frozen=True)
class MovedItem:
    """An item that an operation has moved, and the identities between which it went, by their ids of then."""

    item_id: str
    from_id: str | None
    to_id: str | None


@dataclass(frozen=True)
class Told:
    """An operation with what it did, and by whom.

    Attributes:
        row: the operation.
        by: the name of the key that made it; None without keys.
        undone_by: the name of the key that undid it.
        identities: the ids of the identities that it made, changed or deleted, as they were before it or else
            after it.
        num_items: how many items it moved; those that were deleted since do not count.
        items: the first `MAX_MOVED` of them.
    """

    row: Operation
    by: str | None
    undone_by: str | None
    identities: list[str]
    num_items: int
    items: list[MovedItem]


def tell(store: Store, operations: Sequence[Operation]) -> list[Told]:
    """Return operations with what they did."""
    ids = [operation.id for operation in operations]
    with store.read() as session:
        formers = session.scalars(select(FormerIdentity).where(FormerIdentity.operation_id.in_(ids))).all()
        names = {(former.operation_id, former.identity_key): _id_of(former) for former in formers}
        keys = dict(session.execute(select(Key.id, Key.name)).all())
        return [_tell(session, operation, names, keys) for operation in operations]


def _tell(
    session: Session,
    operation: Operation,
    names: Mapping[tuple[str, int], str],
    keys: Mapping[str, str],
) -> Told:
    moved = select(Item.id, Move.from_key, Move.to_key).join(Item, Item.slot == Move.slot)
    moved = moved.where(Move.operation_id == operation.id)
    num_items = session.scalar(select(func.count()).select_from(moved.subquery())) or 0
    rows = session.execute(moved.order_by(Move.slot).limit(MAX_MOVED))
    return Told(
        row=operation,
        by=keys.get(operation.key_id or ""),
        undone_by=keys.get(operation.undone_by or ""),
        identities=[name for (operation_id, _), name in names.items() if operation_id == operation.id],
        num_items=num_items,
        items=[
            MovedItem(item_id, names.get((operation.id, one)), names.get((operation.id, other)))
            for item_id, one, other in rows
        ],
    )


def _id_of(former: FormerIdentity) -> str:
    return str((former.before or former.after or {}).get("id"))


def find_operation(store: Store, operation_id: str) -> Operation:
    """Return an operation.

    Raises:
        OperationNotFound: there is no such operation.
    """
    with store.read() as session:
        return read_operation(session, operation_id)


def list_operations(
    store: Store, limit: int, before: str, identity_id: str | None = None
) -> tuple[list[Operation], str | None]:
    """Return a page of operations, the newest first; ids sort by time.

    Args:
        store: the gallery.
        limit: most operations of the page.
        before: the id before which the page begins; empty for the newest.
        identity_id: an identity that each operation has made or changed; None for every operation.

    Returns:
        The operations, and the id before which the next page begins, or None on the last page.
    """
    statement = select(Operation).order_by(Operation.id.desc()).limit(limit + 1)
    if before:
        statement = statement.where(Operation.id < before)
    if identity_id is not None:
        former = select(FormerIdentity.operation_id)
        former = former.join(Identity, Identity.key == FormerIdentity.identity_key)
        named = former.where(Identity.id.in_(spellings([identity_id])))
        statement = statement.where(Operation.id.in_(named))
    with store.read() as session:
        found = list(session.scalars(statement))
    return found[:limit], None if len(found) <= limit else found[limit - 1].id


def read_operation(session: Session, operation_id: str) -> Operation:
    """Return an operation within a session.

    Raises:
        OperationNotFound: there is no such operation.
    """
    operation = session.get(Operation, operation_id)
    if operation is None:
        raise OperationNotFound(operation_id)
    return operation


def describe_identity(session: Session, key: int) -> Description | None:
    """Return every field of an identity and its rejections, fit for JSON, or None if there is no identity."""
    identity = session.scalar(with_attributes().where(Identity.key == key))
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


def with_attributes() -> Any:
    """Select identities with their attributes, read from the database even if the session has them."""
    return (
        select(Identity).options(selectinload(Identity.attributes)).execution_options(populate_existing=True)
    )
