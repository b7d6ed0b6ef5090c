"""Correct who is who: merge, split, reject and relabel, each as an operation that can be undone."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.audit.entries import Person, record
from service.errors import Fault, GalleryItemNotFound, InvalidRequest, ItemElsewhere
from service.gallery.items import find_identity, identity_named, require_seen
from service.keys.callers import Cameras, require_cameras, sees
from service.people.identities import set_attributes
from service.people.operations import Recording
from service.serving.tracks import find_tracks
from service.store.store import Store
from service.store.tables import Identity, Item, Operation, Rejection, new_id, now


def merge(store: Store, identity_id: str, source_ids: Collection[str]) -> Operation:
    """Move the items of other identities, the sources, to this identity, and delete the sources.

    The identity keeps its name, notes and attributes. A field that the identity lacks is taken from the first
    source that has the field.

    Raises:
        IdentityNotFound: one of the identities does not exist; nothing is changed.
        InvalidRequest: one of the sources is the identity itself; nothing is changed.
    """
    if identity_id in source_ids:
        raise _merged_into_itself()
    with store.change() as change:
        target = find_identity(change.session, identity_id)
        sources = list(dict.fromkeys(find_identity(change.session, source_id) for source_id in source_ids))
        if target in sources:
            raise _merged_into_itself()
        recording = Recording(change, "merge")
        recording.touch(target.key, *(source.key for source in sources))
        for source in sources:
            _take_description(target, source)
            slots = change.session.scalars(select(Item.slot).where(Item.identity_key == source.key)).all()
            recording.move(slots, target.key)
            _take_rejections(change.session, target.key, source.key)
            change.session.execute(delete(Identity).where(Identity.key == source.key))
        return recording.finish()


def _merged_into_itself() -> InvalidRequest:
    fault = Fault(("body", "source_ids"), "contains the identity to merge into")
    return InvalidRequest(
        fault, detail="an identity cannot be merged into itself; leave it out of source_ids"
    )


def split(store: Store, identity_id: str, item_ids: Sequence[str], to_id: str | None) -> Operation:
    """Move items of an identity to the identity `to_id`, or to a new identity if `to_id` is None.

    The identity `to_id` is made if it does not exist.

    Raises:
        IdentityNotFound: there is no identity `identity_id`.
        GalleryItemNotFound: one of the items does not exist.
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
    """Record that items do not show an identity; items of this identity move to new identities.

    Items of one track move to one new identity together, because a track shows one person.

    Raises:
        IdentityNotFound: there is no such identity.
        GalleryItemNotFound: one of the items does not exist.
    """
    with store.change() as change:
        identity = find_identity(change.session, identity_id)
        items = _items(change.session, item_ids)
        recording = Recording(change, "reject")
        recording.touch(identity.key)
        tracks = _tracks(change.session, items, store.settings.track_gap_s)
        groups: dict[int, list[int]] = {}
        for item in items:
            change.session.merge(Rejection(identity_key=identity.key, slot=item.slot, created_at=now()))
            if item.identity_key == identity.key:
                groups.setdefault(tracks.get(item.slot, item.slot), []).append(item.slot)
        change.session.flush()
        for slots in groups.values():
            recording.move(slots, recording.make(new_id()).key)
        return recording.finish()


def correct_item(
    store: Store, item_id: str, corrections: Mapping[str, Any], cameras: Cameras = None
) -> tuple[Item, Operation | None]:
    """Change the metadata of an item; only a change of the identity can be undone.

    Args:
        store: the gallery.
        item_id: the item.
        corrections: new values of identity_id, camera_id, captured_at or track_id. With the identity_id None
            the item gets an identity of its own.
        cameras: the cameras that the caller is limited to, before the correction and after it.

    Returns:
        The item, and the operation if the identity was changed.

    Raises:
        GalleryItemNotFound: there is no such item, or none of these cameras.
        CameraForbidden: the camera of the correction is none of these, or none of them has seen its identity.
    """
    if "camera_id" in corrections:
        require_cameras(cameras, [corrections["camera_id"]])
    with store.change() as change:
        (item,) = _items(change.session, [item_id])
        if not sees(cameras, item.camera_id):
            raise GalleryItemNotFound(item_id)
        for field in corrections.keys() & {"camera_id", "captured_at", "track_id"}:
            setattr(item, field, corrections[field])
        change.note("updated", item.slot)
        record([Person("target", item.identity.id, item.id)], fields=sorted(corrections))
        operation = None
        require_seen(change.session, cameras, [corrections.get("identity_id")])
        if "identity_id" in corrections and corrections["identity_id"] != item.identity.id:
            recording = Recording(change, "relabel")
            recording.move([item.slot], _find_or_make(recording, corrections["identity_id"]).key)
            operation = recording.finish()
        change.session.flush()
        change.session.refresh(item)
    return item, operation


def _tracks(session: Session, items: Sequence[Item], gap_s: float) -> dict[int, int]:
    """Return the track of each of the items that is on one, by slot, as `find_tracks` does."""
    track_ids = {item.track_id for item in items if item.track_id is not None}
    return find_tracks(session, Item.track_id.in_(track_ids), gap_s) if track_ids else {}


def _take_description(target: Identity, source: Identity) -> None:
    target.name = target.name or source.name
    target.notes = target.notes or source.notes
    target.is_kept = target.is_kept or source.is_kept
    known = {row.name: row.value for row in target.attributes}
    set_attributes(target, {row.name: row.value for row in source.attributes} | known)


def _take_rejections(session: Session, to_key: int, from_key: int) -> None:
    """Copy the rejections for one identity to another, except for items that belong to the other."""
    own = select(Item.slot).where(Item.identity_key == to_key)
    statement = select(Rejection.slot).where(Rejection.identity_key == from_key, Rejection.slot.not_in(own))
    for slot in session.scalars(statement).all():
        session.merge(Rejection(identity_key=to_key, slot=slot, created_at=now()))
    session.execute(delete(Rejection).where(Rejection.identity_key == to_key, Rejection.slot.in_(own)))


def _find_or_make(recording: Recording, identity_id: str | None) -> Identity:
    if identity_id is not None:
        found = identity_named(recording.session, identity_id)
        if found is not None:
            return found
    return recording.make(identity_id or new_id())


def _items(session: Session, item_ids: Sequence[str]) -> list[Item]:
    found = {item.id: item for item in session.scalars(select(Item).where(Item.id.in_(item_ids)))}
    for item_id in item_ids:
        if item_id not in found:
            raise GalleryItemNotFound(item_id)
    return list(found.values())
