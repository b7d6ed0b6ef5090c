"""Crops that the gallery has already: the same bytes of one camera, and pictures that are nearly the same.

An item without a camera is in none, so it is nobody's duplicate.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from model.data.images import ImageInfo
from service.gallery.metadata import Label
from service.index import Filter, GalleryIndex
from service.store.tables import Item

OnDuplicate = Literal["return", "store", "reject"]


def exact_duplicates(
    session: Session, crops: Sequence[ImageInfo], labels: Sequence[Label]
) -> dict[tuple[str, str], Item]:
    """Return the first item there is of each (sha256, camera) among these crops."""
    cameras = {label.camera_id for label in labels if label.camera_id is not None}
    if not cameras:
        return {}
    statement = (
        select(Item)
        .where(Item.sha256.in_({crop.sha256 for crop in crops}), Item.camera_id.in_(cameras))
        .order_by(Item.slot.desc())
    )
    return {(item.sha256, item.camera_id): item for item in session.scalars(statement) if item.camera_id}


def near_duplicates(
    index: GalleryIndex, embeddings_ND: NDArray[np.float32], labels: Sequence[Label], least: float
) -> list[int | None]:
    """Return for each new crop the slot of the nearest item of its camera, if it is as near as that.

    Where an earlier one of these crops is nearer, it is named by its place, as -1 - place.
    """
    found: list[int | None] = []
    for place, label in enumerate(labels):
        best, best_score = None, least
        if label.camera_id is not None:
            only = Filter(camera_ids=frozenset([label.camera_id]))
            hits = index.search(embeddings_ND[place], 1, only)
            if len(hits.slots) and hits.scores[0] >= best_score:
                best, best_score = int(hits.slots[0]), float(hits.scores[0])
            for other in range(place):
                score = float(embeddings_ND[place] @ embeddings_ND[other])
                if labels[other].camera_id == label.camera_id and score >= best_score:
                    best, best_score = -1 - other, score
        found.append(best)
    return found
