"""Enrolment: from uploaded crops to items that searches find.

An enrolment embeds its crops outside any lock and writes their bytes to the disk. One transaction then
commits the items, their embeddings and their entries in the change log. No other transaction changes the
gallery at the same time. Every index follows the change log. The answer is sent after the commit, so a crash
loses no acknowledged item.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from os import SEEK_END
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from model.data.images import ImageInfo
from model.embedder import Embedder
from service.audit.entries import Person, record
from service.errors import DuplicateCrop, ServiceError
from service.gallery.ages import enrolled_at
from service.gallery.duplicates import OnDuplicate, exact_duplicate, items_with_bytes, near_duplicates
from service.gallery.items import identity_named, require_seen
from service.gallery.metadata import ItemMetadata
from service.keys.callers import Cameras, require_cameras
from service.serving.embedding import embed_in_batches, peak_bytes, to_half
from service.serving.generation import Generation
from service.serving.serving import Serving
from service.store.changes import Transaction, active_model
from service.store.doomed import mark_doomed
from service.store.tables import Embedding, Identity, Item, new_id
from service.uploads.requests import decode_uploads, go_on, read_headers, read_upload


@dataclass(frozen=True)
class Enrolment:
    """The items of a request in the order of its images, and which of them are new.

    `model_version` is the active version that embedded the images.
    """

    model_version: str
    items: list[Item]
    are_new: list[bool]


BeforeCommit = Callable[[Session, Enrolment], None]
"""Writes to the database in the transaction that enrols."""


def enroll(
    serving: Serving,
    uploads: Sequence[BinaryIO],
    metadata: Sequence[ItemMetadata],
    on_duplicate: OnDuplicate = "store",
    before_commit: BeforeCommit = lambda _session, _enrolment: None,
    check: Callable[[], None] = go_on,
    *,
    are_imported: bool = False,
    cameras: Cameras = None,
) -> Enrolment:
    """Add one item for each upload, or none at all; searches find the items once this returns.

    Args:
        serving: the service.
        uploads: the images.
        metadata: the metadata of each image.
        on_duplicate: what to do with a crop of equal bytes and camera: "return" the item in the gallery,
            "store" another item, or "reject" the request. "skip" is "return" that compares crops without a
            camera too.
        before_commit: called within the transaction.
        check: called before each image and each batch; raises an error if nobody waits for the answer.
        are_imported: whether the crops are of an archive. An archive may hold one picture of two identities,
            as an export does if the gallery has such items.
        cameras: the cameras that the caller is limited to.

    Returns:
        The items, after the commit.

    Raises:
        ImageError: one of the images is refused; nothing is stored.
        DecodingBusy: no memory is free to decode the images; nothing is stored.
        CameraForbidden: the caller is limited, and names a camera or a person of others; nothing is stored.
        DuplicateCrop: an image is in the gallery already and `on_duplicate` is "reject"; nothing is stored.
        NotReady: no model version is in service yet.
        StorageFull: there is no room for more; nothing is stored.
    """
    serving.store.room.require()
    require_cameras(cameras, (known.camera_id for known in metadata))
    needed = peak_bytes(read_headers(uploads, serving.limits))
    while True:
        generation = serving.current()
        with serving.store.decoding.claim(needed):
            embeddings_ND, crops = _embed(serving, generation.gallery_embedder, uploads, check)
            made = {generation.replica.version: to_half(embeddings_ND)}
            if generation.has_two_networks:
                made[generation.version] = to_half(_embed(serving, generation.embedder, uploads, check)[0])
        with serving.priority.enrolment():
            near = _near(serving, generation, embeddings_ND, metadata)
            new = NewItems(
                crops, metadata, made, near, serving.store.settings.keep_crops, are_imported, cameras
            )
            enrolment = _commit(serving, generation, uploads, new, on_duplicate, before_commit)
        if enrolment is not None:
            return enrolment
        serving.refresh()


def _embed(
    serving: Serving, embedder: Embedder, uploads: Sequence[BinaryIO], check: Callable[[], None]
) -> tuple[NDArray[np.float32], list[ImageInfo]]:
    images = decode_uploads(uploads, serving.limits, check)
    return embed_in_batches(embedder, images, serving.priority.enrolment, check)


def _require_room(serving: Serving, uploads: Sequence[BinaryIO], crops: Sequence[ImageInfo]) -> None:
    """Check that there is room for the crops that are not on the disk yet."""
    store = serving.store
    new = {
        crop.sha256: upload.seek(0, SEEK_END)
        for upload, crop in zip(uploads, crops, strict=True)
        if not store.crops.has(crop.sha256)
    }
    store.room.require({store.settings.crops_dir: sum(new.values())})


def _restore_deleted(serving: Serving, uploads: Sequence[BinaryIO], crops: Sequence[ImageInfo]) -> None:
    """Store crops again whose files are gone; another request may delete a file with its last item."""
    for upload, crop in zip(uploads, crops, strict=True):
        if not serving.store.crops.has(crop.sha256):
            serving.store.crops.put(read_upload(upload, serving.limits))


@dataclass(frozen=True)
class NewItems:
    """The crops of a request, ready to be added.

    Attributes:
        crops: type, size and hash of each crop.
        metadata: of each crop.
        embeddings: (N, D) by model version.
        near: the near-duplicate of each crop, as `near_duplicates` returns it.
        are_kept: whether the bytes of the crops are kept.
        are_imported: whether the crops are of an archive, as in `enroll`.
        cameras: the cameras that the caller is limited to.
    """

    crops: Sequence[ImageInfo]
    metadata: Sequence[ItemMetadata]
    embeddings: Mapping[str, NDArray[np.float16]]
    near: Sequence[int | None]
    are_kept: bool
    are_imported: bool
    cameras: Cameras


def _near(
    serving: Serving,
    generation: Generation,
    embeddings_ND: NDArray[np.float32],
    metadata: Sequence[ItemMetadata],
) -> list[int | None]:
    min_score = serving.store.settings.near_duplicate
    if min_score is None:
        return [None] * len(metadata)
    return near_duplicates(generation.index, embeddings_ND, metadata, min_score)


def _commit(
    serving: Serving,
    generation: Generation,
    uploads: Sequence[BinaryIO],
    new: NewItems,
    on_duplicate: OnDuplicate,
    before_commit: BeforeCommit,
) -> Enrolment | None:
    """Add new items and store their crops; return None and add nothing if another version became active."""
    enrolment = None
    try:
        serving.store.folder.check()
        if serving.store.settings.keep_crops:
            _require_room(serving, uploads, new.crops)
            serving.store.crops.put_all(partial(read_upload, upload, serving.limits) for upload in uploads)
        with serving.store.change() as change:
            if active_model(change.session) == generation.active_model:
                if serving.store.settings.keep_crops:
                    _restore_deleted(serving, uploads, new.crops)
                moment = enrolled_at(change.session, serving.store.clock.now())
                enrolment = _add_items(change, generation.version, new, on_duplicate, moment)
                before_commit(change.session, enrolment)
                record(
                    [Person("target", item.identity.id, item.id) for item in enrolment.items],
                    num_new=sum(enrolment.are_new),
                    model_version=enrolment.model_version,
                )
    except BaseException:
        with suppress(SQLAlchemyError, ServiceError, OSError), serving.store.change() as change:
            mark_doomed(change.session, {crop.sha256 for crop in new.crops})
        raise
    return enrolment


def _add_items(
    change: Transaction, version: str, new: NewItems, on_duplicate: OnDuplicate, moment: datetime
) -> Enrolment:
    session = change.session
    require_seen(session, new.cameras, (known.identity_id for known in new.metadata))
    old = items_with_bytes(session, {crop.sha256 for crop in new.crops})
    identities: dict[str, Identity] = {}
    items: list[Item] = []
    are_new: list[bool] = []
    for place, (crop, known) in enumerate(zip(new.crops, new.metadata, strict=True)):
        same = None
        if on_duplicate != "store":
            same = exact_duplicate(
                old.get(crop.sha256, []),
                known,
                among_identity=new.are_imported,
                without_camera=new.are_imported or on_duplicate == "skip",
            )
        if same is not None and on_duplicate == "reject":
            raise DuplicateCrop(place, same.id)
        if same is None:
            item = _item(change.note("added"), crop, known, moment)
            item.identity = _identity(session, known, identities, moment)
            item.duplicate_of = _original(session, new.near[place], items)
            item.has_crop = new.are_kept
            session.add(item)
            old.setdefault(crop.sha256, []).append(item)
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
    """Return the id of a near-duplicate, or None if its item was deleted since the search."""
    if near is None:
        return None
    if near < 0:
        return items[-1 - near].id
    return session.scalar(select(Item.id).where(Item.slot == near))


def _item(slot: int, crop: ImageInfo, metadata: ItemMetadata, moment: datetime) -> Item:
    return Item(
        slot=slot,
        id=new_id(),
        camera_id=metadata.camera_id,
        captured_at=metadata.captured_at,
        track_id=metadata.track_id,
        created_at=moment,
        sha256=crop.sha256,
        content_type=crop.content_type,
        width=crop.width,
        height=crop.height,
    )


def _identity(
    session: Session, metadata: ItemMetadata, identities: dict[str, Identity], moment: datetime
) -> Identity:
    """Find or make the identity of a crop; `identities` has the identities of this request by id."""
    identity_id = metadata.identity_id or new_id()
    if identity_id not in identities:
        found = identity_named(session, identity_id)
        identities[identity_id] = found or Identity(id=identity_id, created_at=moment)
    return identities[identity_id]
