"""Verification: compare crops of one person with other crops, or with an identity of the gallery."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import metrics
from service.audit.entries import Person, record
from service.errors import Fault, InvalidRequest
from service.gallery.conditions import of_cameras
from service.gallery.items import find_identity
from service.keys.callers import Cameras
from service.search.ranking import fuse
from service.search.search import embed_images
from service.serving.serving import Serving
from service.serving.thresholds import Thresholds
from service.store.tables import Embedding, Item
from service.uploads.requests import go_on


@dataclass(frozen=True)
class Verified:
    """The result of a verification.

    Attributes:
        model_version: the version that embedded the crops.
        score: the cosine of the two mean embeddings, -1 to 1.
        thresholds: the thresholds that turn a score into a decision.
    """

    model_version: str
    score: float
    thresholds: Thresholds


def verify_crops(
    serving: Serving,
    uploads: Sequence[BinaryIO],
    others: Sequence[BinaryIO],
    check: Callable[[], None] = go_on,
) -> Verified:
    """Compare crops of one person with other crops, also of one person.

    Raises:
        ImageError: one of the images is refused.
        NotReady: no network is serving yet.
    """
    generation, (one_ND, other_ND), crops = embed_images(
        serving, {"images": uploads, "other_images": others}, check
    )
    record(query_sha256=[crop.sha256 for crop in crops], model_version=generation.version)
    return Verified(generation.version, _cosine(fuse(one_ND), fuse(other_ND)), generation.thresholds)


def verify_identity(
    serving: Serving,
    uploads: Sequence[BinaryIO],
    identity_id: str,
    check: Callable[[], None] = go_on,
    cameras: Cameras = None,
) -> Verified:
    """Compare crops of one person with the mean embedding of all items of an identity.

    The mean is over the embeddings that searches use. During a compatible swap these still come from the
    previous version, while the new version embeds the crops.

    Args:
        serving: the generation that this process serves.
        uploads: the crops of one person.
        identity_id: the identity.
        check: called before each step that takes long; raises an error if nobody waits for the answer.
        cameras: the cameras whose items the caller sees; the mean is over these.

    Raises:
        ImageError: one of the images is refused.
        IdentityNotFound: there is no such identity, or none of these cameras has seen it.
        InvalidRequest: the identity has no items.
        NotReady: no network is serving yet.
    """
    with serving.store.read() as session:
        find_identity(session, identity_id, cameras)
    generation, (images_ND,), crops = embed_images(serving, {"images": uploads}, check)
    with metrics.DATABASE_S.time(), serving.store.read() as session:
        identity = find_identity(session, identity_id, cameras)
        items_ND = _embeddings(session, identity.key, generation.replica.version, cameras)
    if not len(items_ND):
        fault = Fault(("body", "identity_id"), "has no items")
        raise InvalidRequest(fault, detail=f"identity {identity_id[:64]!r} has no items to compare with")
    score = _cosine(fuse(images_ND), fuse(items_ND))
    record(
        [Person("returned", identity.id, None, round(score, 6))],
        query_sha256=[crop.sha256 for crop in crops],
        model_version=generation.version,
    )
    return Verified(generation.version, score, generation.thresholds)


def _embeddings(session: Session, identity_key: int, version: str, cameras: Cameras) -> NDArray[np.float32]:
    rows = session.scalars(
        select(Embedding.values)
        .join(Item, Item.slot == Embedding.slot)
        .where(Item.identity_key == identity_key, Embedding.model_version == version, *of_cameras(cameras))
    ).all()
    return np.frombuffer(b"".join(rows), "<f2").reshape(len(rows), -1 if rows else 0).astype(np.float32)


def _cosine(one_D: NDArray[np.float32], other_D: NDArray[np.float32]) -> float:
    return max(-1.0, min(1.0, float(one_D @ other_D)))
