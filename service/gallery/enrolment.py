"""Enrolment: from uploaded crops to items that searches find.

An enrolment embeds its crops outside any lock and writes their bytes to the disk. One transaction, alone
among all that change the gallery, then commits the items, their embeddings and their entries in the change
log. Every index follows that log. The answer comes after the commit, so a crash loses nothing acknowledged.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from model.data.images import ImageInfo
from model.embedder import Embedder
from service.errors import DuplicateCrop
from service.gallery.duplicates import OnDuplicate, exact_duplicates, near_duplicates
from service.gallery.metadata import Label
from service.serving.embedding import embed_in_batches, to_half
from service.serving.generation import Generation
from service.serving.serving import Serving
from service.store.changes import Transaction, active_model
from service.store.doomed import mark_doomed
from service.store.tables import Embedding, Identity, Item, new_id, now
from service.uploads.requests import decode_uploads, read_upload


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
        embeddings_ND, crops = _embed(serving, generation.gallery_embedder, uploads)
        made = {generation.replica.version: to_half(embeddings_ND)}
        if generation.has_two_networks:
            made[generation.version] = to_half(_embed(serving, generation.embedder, uploads)[0])
        with serving.priority.enrolment():
            near = _near(serving, generation, embeddings_ND, labels)
            new = New(crops, labels, made, near, serving.store.settings.keep_crops)
            enrolment = _keep(serving, generation, uploads, new, on_duplicate, before_commit)
        if enrolment is not None:
            return enrolment
        serving.refresh()


def _embed(
    serving: Serving, embedder: Embedder, uploads: Sequence[BinaryIO]
) -> tuple[NDArray[np.float32], list[ImageInfo]]:
    images = decode_uploads(uploads, serving.limits)
    return embed_in_batches(embedder, images, serving.priority.enrolment)


def _restore_removed(serving: Serving, uploads: Sequence[BinaryIO], crops: Sequence[ImageInfo]) -> None:
    """Put back crops that someone deleted with their last item after we had put them there."""
    for upload, crop in zip(uploads, crops, strict=True):
        if not serving.store.crops.has(crop.sha256):
            serving.store.crops.put(read_upload(upload, serving.limits))


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
    least = serving.store.settings.near_duplicate
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
        if serving.store.settings.keep_crops:
            serving.store.crops.put_all(partial(read_upload, upload, serving.limits) for upload in uploads)
        with serving.store.change() as change:
            if active_model(change.session) == generation.active_model:
                if serving.store.settings.keep_crops:
                    _restore_removed(serving, uploads, new.crops)
                enrolment = _store(change, generation.version, new, on_duplicate)
                before_commit(change.session, enrolment)
    except BaseException:
        with suppress(SQLAlchemyError), serving.store.change() as change:
            mark_doomed(change.session, {crop.sha256 for crop in new.crops})
        raise
    return enrolment


def _store(change: Transaction, version: str, new: New, on_duplicate: OnDuplicate) -> Enrolment:
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
