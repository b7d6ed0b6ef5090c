"""Items: read, list and delete them; with an item go its embeddings, its crop and its empty identity."""

from collections.abc import Collection, Sequence
from typing import Literal

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session, selectinload

from service.errors import CountDiffers, CropNotKept, GalleryItemNotFound, IdentityNotFound
from service.gallery.selection import Selection, conditions
from service.store.changes import Transaction
from service.store.database import pages
from service.store.doomed import mark_doomed
from service.store.store import Store
from service.store.tables import Embedding, Identity, Item


def find_item(store: Store, item_id: str) -> Item:
    """Return the item of this id.

    Raises:
        GalleryItemNotFound: there is none.
    """
    with store.read() as session:
        return _find(session, item_id)


def find_with_crop(store: Store, item_id: str) -> Item:
    """Return the item of this id, whose crop is kept.

    Raises:
        GalleryItemNotFound: there is none.
        CropNotKept: it was enrolled without.
    """
    item = find_item(store, item_id)
    if not item.has_crop:
        raise CropNotKept(item_id)
    return item


def list_items(store: Store, among: Selection, limit: int, after: int = 0) -> tuple[list[Item], int | None]:
    """Return the next items that are meant, in the order of enrolment, and the slot to go on after.

    Slots ascend and are never used twice: whatever comes and goes meanwhile, no item is missed or seen twice.
    """
    statement = select(Item).where(Item.slot > after, *conditions(among)).order_by(Item.slot)
    with store.read() as session:
        items = list(session.scalars(statement.limit(limit + 1)))
    is_last = len(items) <= limit
    return items[:limit], None if is_last else items[limit - 1].slot


def find_embeddings(store: Store, items: Sequence[Item], version: str) -> dict[int, bytes]:
    """Return by slot what is stored of these items' embeddings by a version: float16, little endian."""
    statement = select(Embedding.slot, Embedding.values).where(
        Embedding.model_version == version, Embedding.slot.in_([item.slot for item in items])
    )
    with store.read() as session:
        return {row.slot: row.values for row in session.execute(statement)}


def delete_item(store: Store, item_id: str) -> None:
    """Delete an item: its row, its embeddings, its identity and its crop where nothing else needs them.

    Raises:
        GalleryItemNotFound: there is none.
    """
    with store.change() as change:
        delete_slots(change, [_find(change.session, item_id).slot])


def delete_items(store: Store, among: Selection, expected: int | None) -> int:
    """Delete the items that are meant, all at once, and return how many; without `expected` only count them.

    Raises:
        CountDiffers: if they are not as many as expected; nothing is deleted.
    """
    meant = select(Item.slot).where(*conditions(among)).order_by(Item.slot)
    if expected is None:
        with store.read() as session:
            return session.scalar(select(func.count()).select_from(meant.subquery())) or 0
    with store.change() as change:
        slots = change.session.scalars(meant).all()
        if len(slots) != expected:
            raise CountDiffers(expected, len(slots))
        delete_slots(change, slots)
    return expected


def delete_slots(
    change: Transaction, slots: Sequence[int], kind: Literal["removed", "erased"] = "removed"
) -> None:
    """Delete items, with all that goes with them, from the database; their crops are doomed.

    Identities that nobody has asked to keep go with their last item.
    """
    session = change.session
    for page in pages(slots):
        rows = session.execute(
            select(Item.id, Item.sha256, Item.identity_key).where(Item.slot.in_(page))
        ).all()
        session.execute(
            update(Item).where(Item.duplicate_of.in_([row.id for row in rows])).values(duplicate_of=None)
        )
        session.execute(delete(Item).where(Item.slot.in_(page)))
        mark_doomed(session, {row.sha256 for row in rows})
        delete_empty_identities(session, {row.identity_key for row in rows})
        for slot in page:
            change.note(kind, slot)


def delete_empty_identities(session: Session, keys: Collection[int]) -> None:
    """Delete those of these identities that have no item any more and that nobody has asked to keep."""
    has_items = select(Item.slot).where(Item.identity_key == Identity.key).exists()
    session.execute(delete(Identity).where(Identity.key.in_(keys), ~Identity.is_kept, ~has_items))


def _find(session: Session, item_id: str) -> Item:
    item = session.scalar(select(Item).where(Item.id == item_id))
    if item is None:
        raise GalleryItemNotFound(item_id)
    return item


def find_identity(session: Session, identity_id: str) -> Identity:
    """Return the row of an identity, with its attributes.

    Raises:
        IdentityNotFound: there is no such identity.
    """
    statement = select(Identity).options(selectinload(Identity.attributes)).where(Identity.id == identity_id)
    identity = session.scalar(statement)
    if identity is None:
        raise IdentityNotFound(identity_id)
    return identity
