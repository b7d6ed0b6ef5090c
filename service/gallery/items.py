"""Read, list and delete items.

The deletion of an item also deletes its embeddings, its crop if nothing else needs the crop, and its identity
if the identity has no other item and is not kept on purpose.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

from sqlalchemy import ColumnElement, Select, delete, func, select, update
from sqlalchemy.orm import Session, selectinload
from sqlalchemy.orm.interfaces import ORMOption

from model.data.names import unicode_forms
from service.audit.entries import Person, record
from service.errors import CameraForbidden, CountDiffers, CropNotKept, GalleryItemNotFound, IdentityNotFound
from service.gallery.conditions import conditions, item_conditions, of_cameras, spellings
from service.gallery.metadata import MAX_SPELLING
from service.gallery.selection import ItemFilters, Selection, filters_of
from service.keys.callers import Cameras, sees
from service.store.changes import Transaction
from service.store.database import pages
from service.store.doomed import mark_doomed
from service.store.store import Store
from service.store.tables import Embedding, Identity, Item


def find_item(store: Store, item_id: str, cameras: Cameras = None) -> Item:
    """Return the item of this id.

    Args:
        store: the gallery.
        item_id: the item.
        cameras: the cameras that the caller is limited to.

    Raises:
        GalleryItemNotFound: there is no such item, or none of these cameras.
    """
    with store.read() as session:
        item = _find(session, item_id)
    if not sees(cameras, item.camera_id):
        raise GalleryItemNotFound(item_id)
    return item


def find_with_crop(store: Store, item_id: str, cameras: Cameras = None) -> Item:
    """Return the item of this id, whose crop is kept.

    Args:
        store: the gallery.
        item_id: the item.
        cameras: the cameras that the caller is limited to.

    Raises:
        GalleryItemNotFound: there is no such item, or none of these cameras.
        CropNotKept: the item was enrolled without its crop.
    """
    item = find_item(store, item_id, cameras)
    if not item.has_crop:
        raise CropNotKept(item_id)
    return item


def list_items(store: Store, among: Selection, limit: int, after: int = 0) -> tuple[list[Item], int | None]:
    """Return a page of the selected items in the order of enrolment.

    Slots ascend and are never used twice. So no item is missed or listed twice, even if items are added or
    deleted between two pages.

    Args:
        store: the gallery.
        among: which items.
        limit: most items of the page.
        after: the slot after which the page begins.

    Returns:
        The items, and the slot after which the next page begins, or None on the last page.
    """
    with store.read() as session:
        return _page(session, conditions(session, among, store.settings.track_gap_s), limit, after)


def list_items_of(
    store: Store, identity_id: str, among: ItemFilters, limit: int, after: int = 0, cameras: Cameras = None
) -> tuple[list[Item], int | None]:
    """Return a page of the items of one identity, as `list_items` does.

    Args:
        store: the gallery.
        identity_id: the identity.
        among: which of its items; within `cameras`.
        limit: most items of the page.
        after: the slot after which the page begins.
        cameras: the cameras that the caller is limited to.

    Raises:
        IdentityNotFound: there is no such identity, or none of these cameras has seen it.
    """
    with store.read() as session:
        is_its = Item.identity_key == find_identity(session, identity_id, cameras).key
        wanted = item_conditions(session, among, store.settings.track_gap_s)
        return _page(session, [is_its, *wanted], limit, after)


def _page(
    session: Session, wanted: Sequence[ColumnElement[bool]], limit: int, after: int
) -> tuple[list[Item], int | None]:
    statement = select(Item).where(Item.slot > after, *wanted).order_by(Item.slot)
    items = list(session.scalars(statement.limit(limit + 1)))
    return items[:limit], None if len(items) <= limit else items[limit - 1].slot


def find_embeddings(store: Store, items: Sequence[Item], version: str) -> dict[int, bytes]:
    """Return the stored embeddings that a model version made of items, by slot: float16, little endian."""
    statement = select(Embedding.slot, Embedding.values).where(
        Embedding.model_version == version, Embedding.slot.in_([item.slot for item in items])
    )
    with store.read() as session:
        return {row.slot: row.values for row in session.execute(statement)}


def delete_item(store: Store, item_id: str) -> None:
    """Delete an item and its embeddings, and its identity and its crop unless something else needs them.

    Raises:
        GalleryItemNotFound: there is no such item.
    """
    with store.change(makes_room=True) as change:
        item = _find(change.session, item_id)
        record([Person("target", item.identity.id, item.id)])
        delete_slots(change, [item.slot])


def delete_items(store: Store, among: Selection, expected: int | None) -> int:
    """Delete the selected items in one transaction, or only count them if `expected` is None.

    Returns:
        The number of selected items.

    Raises:
        CountDiffers: the number is not `expected`; nothing is deleted.
    """
    gap_s = store.settings.track_gap_s
    if expected is None:
        record(filters=filters_of(among), is_dry_run=True)
        with store.read() as session:
            wanted = conditions(session, among, gap_s)
            return session.scalar(select(func.count()).select_from(Item).where(*wanted)) or 0
    with store.change(makes_room=True) as change:
        wanted = conditions(change.session, among, gap_s)
        slots = change.session.scalars(select(Item.slot).where(*wanted).order_by(Item.slot)).all()
        if len(slots) != expected:
            raise CountDiffers(expected, len(slots))
        record(_people_of(change.session, slots), filters=filters_of(among), num_items=len(slots))
        delete_slots(change, slots)
    return expected


def _people_of(session: Session, slots: Sequence[int]) -> Iterator[Person]:
    """Return the people of items for the audit."""
    for page in pages(slots):
        named = select(Item.id, Identity.id).join(Identity).where(Item.slot.in_(page)).order_by(Item.slot)
        for item_id, identity_id in session.execute(named):
            yield Person("target", identity_id, item_id)


def delete_slots(
    change: Transaction, slots: Sequence[int], kind: Literal["removed", "erased"] = "removed"
) -> None:
    """Delete items with all rows that belong to them, and doom their crops.

    An identity that is not kept on purpose (`is_kept`) is deleted with its last item.
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
    """Delete the identities among these that have no item and are not kept on purpose (`is_kept`)."""
    has_items = select(Item.slot).where(Item.identity_key == Identity.key).exists()
    session.execute(delete(Identity).where(Identity.key.in_(keys), ~Identity.is_kept, ~has_items))


def _find(session: Session, item_id: str) -> Item:
    item = session.scalar(select(Item).where(Item.id == item_id))
    if item is None:
        raise GalleryItemNotFound(item_id)
    return item


def identity_named(session: Session, name: str, *options: ORMOption) -> Identity | None:
    """Return the identity of this name, or None.

    An identity of exactly this spelling goes first, then one whose name is another Unicode form of it.
    """
    forms = unicode_forms(name) if len(name) <= MAX_SPELLING else (name,)
    statement = select(Identity).options(*options).where(Identity.id.in_(set(forms)))
    found = {identity.id: identity for identity in session.scalars(statement)}
    return next((found[form] for form in forms if form in found), None)


def require_seen(session: Session, cameras: Cameras, identity_ids: Iterable[str | None]) -> None:
    """Check that a caller who is limited to some cameras adds crops to nobody whom these have not seen.

    Such a caller would see the name and the notes of the person then.

    Raises:
        CameraForbidden: an identity exists, and none of these cameras has seen it.
    """
    if cameras is None:
        return
    for page in pages(sorted(spellings(name for name in identity_ids if name is not None))):
        named = dict(session.execute(_named(page)).all())
        of_these = select(Item.identity_key).where(Item.identity_key.in_(named), *of_cameras(cameras))
        for key in named.keys() - set(session.scalars(of_these.distinct())):
            raise CameraForbidden(cameras, f"{named[key]!r}, whom none of these cameras has seen")


def _named(names: Collection[str]) -> Select[int, str]:
    return select(Identity.key, Identity.id).where(Identity.id.in_(names))


def find_identity(session: Session, identity_id: str, cameras: Cameras = None) -> Identity:
    """Return an identity with its attributes loaded; its name is looked up as `identity_named` does.

    Args:
        session: a session that reads.
        identity_id: the identity.
        cameras: the cameras that the caller is limited to.

    Raises:
        IdentityNotFound: there is no such identity, or none of these cameras has seen it.
    """
    identity = identity_named(session, identity_id, selectinload(Identity.attributes))
    if identity is not None and cameras is not None:
        seen = select(Item.slot).where(Item.identity_key == identity.key, *of_cameras(cameras)).limit(1)
        identity = identity if session.scalar(seen) is not None else None
    if identity is None:
        raise IdentityNotFound(identity_id)
    return identity
