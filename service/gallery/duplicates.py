"""Duplicates: crops with equal bytes, or of nearly the same picture, by one camera.

Crops without a camera are compared only where a repeat must double nothing: in an import, and in a request
that asks for it by `skip`. They have no near-duplicates, because two cameras may see nearly the same picture.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.gallery.metadata import ItemMetadata
from service.index import Filter, GalleryIndex
from service.store.tables import Item

OnDuplicate = Literal["return", "skip", "store", "reject"]


def items_with_bytes(session: Session, sha256s: Collection[str]) -> dict[str, list[Item]]:
    """Return the items that have the bytes of these crops, oldest first, by SHA-256."""
    found: dict[str, list[Item]] = {}
    for item in session.scalars(select(Item).where(Item.sha256.in_(sha256s)).order_by(Item.slot)):
        found.setdefault(item.sha256, []).append(item)
    return found


def exact_duplicate(
    items: Iterable[Item], known: ItemMetadata, *, among_identity: bool, without_camera: bool
) -> Item | None:
    """Return the first of some items with the bytes of a crop that is the crop itself, sent before.

    The camera must be equal. In an import, and without a camera, a crop that names an identity is another
    crop if the item is of another identity. In a request with a camera the item counts, whoever it shows,
    because one camera never makes the same bytes twice.

    Args:
        items: items with the bytes of the crop.
        known: the metadata of the crop.
        among_identity: whether only items of the identity of the crop count.
        without_camera: whether a crop without a camera is compared with items without a camera.
    """
    if known.camera_id is None and not without_camera:
        return None
    among_identity = (among_identity or known.camera_id is None) and known.identity_id is not None
    for item in items:
        is_same_identity = not among_identity or item.identity.id == known.identity_id
        if item.camera_id == known.camera_id and is_same_identity:
            return item
    return None


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
