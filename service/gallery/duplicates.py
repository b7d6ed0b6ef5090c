"""Duplicates: crops with equal bytes, or of nearly the same picture, by one camera.

A crop without a camera has no duplicates, because only crops of one camera are compared.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from model.data.images import ImageInfo
from service.gallery.metadata import ItemMetadata
from service.index import Filter, GalleryIndex
from service.store.tables import Item

OnDuplicate = Literal["return", "store", "reject"]


def exact_duplicates(
    session: Session, crops: Sequence[ImageInfo], metadata: Sequence[ItemMetadata]
) -> dict[tuple[str, str], Item]:
    """Return the oldest item with the bytes and the camera of one of these crops, by (sha256, camera_id)."""
    cameras = {known.camera_id for known in metadata if known.camera_id is not None}
    if not cameras:
        return {}
    statement = (
        select(Item)
        .where(Item.sha256.in_({crop.sha256 for crop in crops}), Item.camera_id.in_(cameras))
        .order_by(Item.slot.desc())
    )
    return {(item.sha256, item.camera_id): item for item in session.scalars(statement) if item.camera_id}


def near_duplicates(
    index: GalleryIndex,
    embeddings_ND: NDArray[np.float32],
    metadata: Sequence[ItemMetadata],
    min_score: float,
) -> list[int | None]:
    """Find for each new crop the most similar item or earlier new crop of its camera.

    Args:
        index: the items of the gallery.
        embeddings_ND: the embeddings of the new crops, L2-normalised.
        metadata: the metadata of the new crops.
        min_score: least cosine of a near-duplicate, from -1 to 1.

    Returns:
        For each new crop the slot of an item, or `-1 - place` of an earlier new crop, or None if there is no
        near-duplicate.
    """
    found: list[int | None] = []
    for place, known in enumerate(metadata):
        best, best_score = None, min_score
        if known.camera_id is not None:
            only = Filter(camera_ids=frozenset([known.camera_id]))
            hits = index.search(embeddings_ND[place], 1, only)
            if len(hits.slots) and hits.scores[0] >= best_score:
                best, best_score = int(hits.slots[0]), float(hits.scores[0])
            for other in range(place):
                score = float(embeddings_ND[place] @ embeddings_ND[other])
                if metadata[other].camera_id == known.camera_id and score >= best_score:
                    best, best_score = -1 - other, score
        found.append(best)
    return found
