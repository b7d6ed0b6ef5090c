"""What happens on POST, GET and DELETE /gallery.

Enrolling embeds outside any lock, keeps the bytes, and then, under the writer lock, commits rows and
embeddings together before the index learns of them: what is acknowledged is in the database, and a crash in
between is mended by the next start, which rebuilds the index from there.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import GalleryItemNotFound
from service.images import Crop, decode
from service.index import Rows
from service.serving import Generation, Serving, embed_in_batches, to_half
from service.tables import Embedding, Identity, Item, new_id, now


@dataclass(frozen=True)
class Label:
    """What the caller knows of a crop; without an identity it gets one of its own."""

    identity_id: str | None = None
    camera_id: str | None = None
    captured_at: datetime | None = None
    track_id: str | None = None


@dataclass(frozen=True)
class Enrolment:
    """Items in the order of their images, and the model version that embedded them."""

    model_version: str
    items: list[Item]


def enroll(serving: Serving, uploads: Sequence[BinaryIO], labels: Sequence[Label]) -> Enrolment:
    """Add one item for each upload, all of them or none; they are found by searches once this returns.

    Raises:
        ImageError: one of the images is refused; nothing is stored.
        NotReady: no network is serving yet.
    """
    while True:
        generation = serving.current()
        crops: list[Crop] = []
        images = _decoded(serving, uploads, crops)
        embeddings_ND = embed_in_batches(generation.embedder, images, serving.enrolling_lock)
        try:
            serving.crops.put_all(partial(serving.read_upload, upload) for upload in uploads)
            with serving.writer_lock:
                if serving.current() is generation:
                    _restore_removed(serving, uploads, crops)
                    items = _store(serving, generation, crops, labels, to_half(embeddings_ND))
                    return Enrolment(generation.version, items)
        except BaseException:
            with serving.writer_lock:
                _drop_unused(serving, {crop.sha256 for crop in crops})
            raise


def find(serving: Serving, item_id: str) -> Item:
    """Return the item of this id.

    Raises:
        GalleryItemNotFound: there is none.
    """
    with serving.sessions.read() as session:
        return _find(session, item_id)


def remove(serving: Serving, item_id: str) -> None:
    """Delete an item: its row, its embeddings, its identity and its crop where nothing else needs them.

    Raises:
        GalleryItemNotFound: there is none.
    """
    with serving.writer_lock:
        with serving.sessions.write.begin() as session:
            item = _find(session, item_id)
            session.delete(item)
            session.flush()
            if not session.scalar(select(Item.slot).where(Item.identity_key == item.identity_key).limit(1)):
                session.delete(item.identity)
        serving.current().index.remove([item.slot])
        _drop_unused(serving, {item.sha256})


def _find(session: Session, item_id: str) -> Item:
    item = session.scalar(select(Item).where(Item.id == item_id))
    if item is None:
        raise GalleryItemNotFound(item_id)
    return item


def _decoded(serving: Serving, uploads: Sequence[BinaryIO], crops: list[Crop]) -> Iterator[Image.Image]:
    """Decode one upload after the other, noting in `crops` what there is to remember of each."""
    for position, upload in enumerate(uploads):
        image, crop = decode(serving.read_upload(upload), serving.limits, position)
        crops.append(crop)
        yield image


def _restore_removed(serving: Serving, uploads: Sequence[BinaryIO], crops: Sequence[Crop]) -> None:
    """Put back crops that someone deleted with their last item after we had put them there."""
    for upload, crop in zip(uploads, crops, strict=True):
        if not serving.crops.has(crop.sha256):
            serving.crops.put(serving.read_upload(upload))


def _store(
    serving: Serving,
    generation: Generation,
    crops: Sequence[Crop],
    labels: Sequence[Label],
    embeddings_ND: NDArray[np.float16],
) -> list[Item]:
    """Commit items and embeddings, then tell the index."""
    with serving.sessions.write.begin() as session:
        identities = _identities(session, labels)
        items = [
            _item(crop, label, identity)
            for crop, label, identity in zip(crops, labels, identities, strict=True)
        ]
        for item in items:
            session.add(item)
            session.flush()  # one by one: slots ascend in the order of the images
        session.add_all(
            Embedding(slot=item.slot, model_version=generation.version, values=embedding_D.tobytes())
            for item, embedding_D in zip(items, embeddings_ND, strict=True)
        )
    generation.index.add(
        Rows(
            slots=[item.slot for item in items],
            identity_keys=[item.identity_key for item in items],
            camera_ids=[item.camera_id for item in items],
            captured_ats=[item.captured_at for item in items],
            track_ids=[item.track_id for item in items],
            embeddings_ND=embeddings_ND,
        )
    )
    return items


def _item(crop: Crop, label: Label, identity: Identity) -> Item:
    return Item(
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


def _identities(session: Session, labels: Sequence[Label]) -> list[Identity]:
    """Return the identity of each label; new ones are added to the session."""
    names = [label.identity_id or new_id() for label in labels]
    known = {i.id: i for i in session.scalars(select(Identity).where(Identity.id.in_(set(names))))}
    for name in names:
        if name not in known:
            known[name] = Identity(id=name, created_at=now())
            session.add(known[name])
    return [known[name] for name in names]


def _drop_unused(serving: Serving, sha256s: Iterable[str]) -> None:
    """Delete the crops that no item refers to; under the writer lock."""
    with serving.sessions.read() as session:
        for sha256 in sha256s:
            if not session.scalar(select(Item.slot).where(Item.sha256 == sha256).limit(1)):
                serving.crops.remove(sha256)
