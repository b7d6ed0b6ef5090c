"""What happens on POST, GET and DELETE /gallery, and what taking items out of it always means.

Enrolling embeds outside any lock, keeps the bytes, and then, alone among all who change the gallery, commits
rows, embeddings and their entries in the change log together; every index follows the log. What is
acknowledged is in the database, and a crash in between is mended by the next start.

A crop that no item needs any more is first noted as doomed, by the transaction that removes the item, and its
bytes go from the disk after that: a crash in between leaves the note, and the next start follows it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from model.data.images import ImageInfo
from service.errors import CountDiffers, CropNotKept, DuplicateCrop, GalleryItemNotFound, ServiceError
from service.gallery.duplicates import OnDuplicate, exact_duplicates, near_duplicates
from service.gallery.metadata import Label
from service.gallery.selection import Selection, conditions
from service.serving.serving import Generation, Serving, embed_in_batches, to_half
from service.store.changes import Changing, served
from service.store.database import pages
from service.store.tables import DoomedCrop, Embedding, Identity, Item, JobFile, new_id, now
from service.uploads.requests import decode_uploads, read_upload

CROPS_AT_ONCE = 500


@dataclass(frozen=True)
class Enrolment:
    """Items in the order of their images, which of them are new, and the model version that embedded them."""

    model_version: str
    items: list[Item]
    are_new: list[bool]


BeforeCommit = Callable[[Session, Enrolment], None]
"""Writes something down in the very transaction that enrols."""


def enroll(
    serving: Serving,
    uploads: Sequence[BinaryIO],
    labels: Sequence[Label],
    on_duplicate: OnDuplicate = "store",
    before_commit: BeforeCommit = lambda _session, _enrolment: None,
) -> Enrolment:
    """Add one item for each upload, all of them or none; they are found by searches once this returns.

    Raises:
        ImageError: one of the images is refused; nothing is stored.
        DuplicateCrop: one of them is there already, and duplicates are to be rejected; nothing is stored.
        NotReady: no network is serving yet.
    """
    while True:
        generation = serving.current()
        crops: list[ImageInfo] = []
        images = decode_uploads(uploads, serving.limits, crops)
        embeddings_ND = embed_in_batches(generation.searched_embedder, images, serving.turn_to_enroll)
        made = {generation.replica.version: to_half(embeddings_ND)}
        if generation.stand_in:
            images = decode_uploads(uploads, serving.limits, [])
            made[generation.version] = to_half(
                embed_in_batches(generation.embedder, images, serving.turn_to_enroll)
            )
        with serving.turn_to_enroll():
            near = _near(serving, generation, embeddings_ND, labels)
            new = New(crops, labels, made, near, serving.settings.keep_crops)
            enrolment = _keep(serving, generation, uploads, new, on_duplicate, before_commit)
        if enrolment is not None:
            settle(serving)
            return enrolment
        serving.refresh()


def find(serving: Serving, item_id: str) -> Item:
    """Return the item of this id.

    Raises:
        GalleryItemNotFound: there is none.
    """
    with serving.sessions.read() as session:
        return _find(session, item_id)


def find_with_crop(serving: Serving, item_id: str) -> Item:
    """Return the item of this id, whose crop is kept.

    Raises:
        GalleryItemNotFound: there is none.
        CropNotKept: it was enrolled without.
    """
    item = find(serving, item_id)
    if not item.has_crop:
        raise CropNotKept(item_id)
    return item


def list_items(
    serving: Serving, among: Selection, limit: int, after: int = 0
) -> tuple[list[Item], int | None]:
    """Return the next items that are meant, in the order of enrolment, and the slot to go on after.

    Slots ascend and are never used twice: whatever comes and goes meanwhile, no item is missed or seen twice.
    """
    statement = select(Item).where(Item.slot > after, *conditions(among)).order_by(Item.slot)
    with serving.sessions.read() as session:
        items = list(session.scalars(statement.limit(limit + 1)))
    is_last = len(items) <= limit
    return items[:limit], None if is_last else items[limit - 1].slot


def find_embeddings(serving: Serving, items: Sequence[Item], version: str) -> dict[int, bytes]:
    """Return by slot what is stored of these items' embeddings by a version: float16, little endian."""
    statement = select(Embedding.slot, Embedding.values).where(
        Embedding.model_version == version, Embedding.slot.in_([item.slot for item in items])
    )
    with serving.sessions.read() as session:
        return {row.slot: row.values for row in session.execute(statement)}


def remove(serving: Serving, item_id: str) -> None:
    """Delete an item: its row, its embeddings, its identity and its crop where nothing else needs them.

    Raises:
        GalleryItemNotFound: there is none.
    """
    with serving.changing() as change:
        take_out(change, [_find(change.session, item_id).slot])
    settle(serving)


def remove_all(serving: Serving, among: Selection, expected: int | None) -> int:
    """Delete the items that are meant, all at once, and return how many; without `expected` only count them.

    Raises:
        CountDiffers: if they are not as many as expected; nothing is deleted.
    """
    meant = select(Item.slot).where(*conditions(among)).order_by(Item.slot)
    if expected is None:
        with serving.sessions.read() as session:
            return session.scalar(select(func.count()).select_from(meant.subquery())) or 0
    with serving.changing() as change:
        slots = change.session.scalars(meant).all()
        if len(slots) != expected:
            raise CountDiffers(expected, len(slots))
        take_out(change, slots)
    settle(serving)
    return expected


def take_out(change: Changing, slots: Sequence[int], kind: Literal["removed", "erased"] = "removed") -> None:
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
        doom(session, {row.sha256 for row in rows})
        drop_identities(session, {row.identity_key for row in rows})
        for slot in page:
            change.note(kind, slot)


def drop_identities(session: Session, keys: Collection[int]) -> None:
    """Delete those of these identities that have no item any more and that nobody has asked to keep."""
    has_items = select(Item.slot).where(Item.identity_key == Identity.key).exists()
    session.execute(delete(Identity).where(Identity.key.in_(keys), ~Identity.is_kept, ~has_items))


def doom(session: Session, sha256s: Iterable[str]) -> None:
    """Note crops that must go from the disk, unless something still needs them."""
    for sha256 in sha256s:
        session.merge(DoomedCrop(sha256=sha256))


def is_crop_needed(session: Session, sha256: str) -> bool:
    """Tell whether the crop of an item is these bytes, or a job is to enrol them."""
    item = select(Item.slot).where(Item.sha256 == sha256, Item.has_crop).limit(1)
    file = select(JobFile.job_id).where(JobFile.sha256 == sha256, JobFile.error.is_(None)).limit(1)
    return session.scalar(item) is not None or session.scalar(file) is not None


def settle(serving: Serving) -> None:
    """Do what follows a commit: let doomed crops go, and bring the change to the index.

    A failure is nobody's answer, as the change is made: both are done again before long, and the index
    refreshed by every search.
    """
    with suppress(ServiceError, SQLAlchemyError, OSError):
        drop_doomed(serving)
    with suppress(ServiceError, SQLAlchemyError):
        serving.refresh()


def drop_doomed(serving: Serving) -> None:
    """Delete the bytes of the doomed crops, but for those that an item refers to by now."""
    while True:
        with serving.sessions.read() as session:
            if session.scalar(select(DoomedCrop.sha256).limit(1)) is None:
                return
        with serving.changing() as change:
            for doomed in change.session.scalars(select(DoomedCrop).limit(CROPS_AT_ONCE)).all():
                if not is_crop_needed(change.session, doomed.sha256):
                    serving.crops.remove(doomed.sha256)
                change.session.delete(doomed)


def _find(session: Session, item_id: str) -> Item:
    item = session.scalar(select(Item).where(Item.id == item_id))
    if item is None:
        raise GalleryItemNotFound(item_id)
    return item


def _restore_removed(serving: Serving, uploads: Sequence[BinaryIO], crops: Sequence[ImageInfo]) -> None:
    """Put back crops that someone deleted with their last item after we had put them there."""
    for upload, crop in zip(uploads, crops, strict=True):
        if not serving.crops.has(crop.sha256):
            serving.crops.put(read_upload(upload, serving.limits))


@dataclass(frozen=True)
class New:
    """Crops to store, and their embeddings by model version.

    `near` has the slot of what each is nearly the same as, or -1 - place of one here.
    """

    crops: Sequence[ImageInfo]
    labels: Sequence[Label]
    embeddings: Mapping[str, NDArray[np.float16]]
    near: Sequence[int | None]
    are_kept: bool


def _near(
    serving: Serving, generation: Generation, embeddings_ND: NDArray[np.float32], labels: Sequence[Label]
) -> list[int | None]:
    least = serving.settings.near_duplicate
    if least is None:
        return [None] * len(labels)
    return near_duplicates(generation.index, embeddings_ND, labels, least)


def _keep(
    serving: Serving,
    generation: Generation,
    uploads: Sequence[BinaryIO],
    new: New,
    on_duplicate: OnDuplicate,
    before_commit: BeforeCommit,
) -> Enrolment | None:
    """Store new items and their crops; nothing, and return None, if their network is not active any more."""
    enrolment = None
    try:
        if serving.settings.keep_crops:
            serving.crops.put_all(partial(read_upload, upload, serving.limits) for upload in uploads)
        with serving.changing() as change:
            if served(change.session) == generation.served:
                if serving.settings.keep_crops:
                    _restore_removed(serving, uploads, new.crops)
                enrolment = _store(change, generation.version, new, on_duplicate)
                before_commit(change.session, enrolment)
    except BaseException:
        with suppress(SQLAlchemyError):  # whose trouble the caller is told of already
            _doom(serving, {crop.sha256 for crop in new.crops})
        raise
    return enrolment


def _store(change: Changing, version: str, new: New, on_duplicate: OnDuplicate) -> Enrolment:
    session = change.session
    there = {} if on_duplicate == "store" else exact_duplicates(session, new.crops, new.labels)
    identities: dict[str, Identity] = {}
    items: list[Item] = []
    are_new: list[bool] = []
    for place, (crop, label) in enumerate(zip(new.crops, new.labels, strict=True)):
        same = there.get((crop.sha256, label.camera_id or ""))
        if same is not None and on_duplicate == "reject":
            raise DuplicateCrop(place, same.id)
        if same is None:
            item = _item(change.note("added"), crop, label, _identity(session, label, identities))
            item.duplicate_of = _original(session, new.near[place], items)
            item.has_crop = new.are_kept
            session.add(item)
            if label.camera_id is not None and on_duplicate != "store":
                there[crop.sha256, label.camera_id] = item
        items.append(item if same is None else same)
        are_new.append(same is None)
    session.flush()
    session.add_all(
        Embedding(slot=item.slot, model_version=maker, values=embedding_D.tobytes())
        for maker, embeddings_ND in new.embeddings.items()
        for item, embedding_D, is_new in zip(items, embeddings_ND, are_new, strict=True)
        if is_new
    )
    session.flush()
    return Enrolment(version, items, are_new)


def _original(session: Session, near: int | None, items: Sequence[Item]) -> str | None:
    """Return the id of what an item is nearly the same as, if that is still there."""
    if near is None:
        return None
    if near < 0:
        return items[-1 - near].id
    return session.scalar(select(Item.id).where(Item.slot == near))


def _item(slot: int, crop: ImageInfo, label: Label, identity: Identity) -> Item:
    return Item(
        slot=slot,
        id=new_id(),
        identity=identity,
        camera_id=label.camera_id,
        captured_at=label.captured_at,
        track_id=label.track_id,
        created_at=now(),
        sha256=crop.sha256,
        content_type=crop.content_type,
        width=crop.width,
        height=crop.height,
    )


def _identity(session: Session, label: Label, known: dict[str, Identity]) -> Identity:
    """Return the identity of a label, made if it is not there; `known` has those of the request."""
    name = label.identity_id or new_id()
    if name not in known:
        found = session.scalar(select(Identity).where(Identity.id == name))
        known[name] = found or Identity(id=name, created_at=now())
    return known[name]


def _doom(serving: Serving, sha256s: Iterable[str]) -> None:
    """Delete the crops of an enrolment that failed, where no item refers to them."""
    with serving.changing() as change:
        doom(change.session, sha256s)
    drop_doomed(serving)
