"""From scored items to ranked matches: pure functions, no I/O.

A score is a cosine. Ties are broken by id, so that equal galleries give equal answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ITEMS_PER_MATCH = 5


@dataclass(frozen=True)
class Scored:
    """An item, whose it is, and how like the query."""

    item_id: str
    identity_id: str
    score: float


@dataclass(frozen=True)
class Match:
    """An identity (or a single item) with its best items; its score is that of the first."""

    identity_id: str
    score: float
    items: tuple[Scored, ...]


def fuse(embeddings_QD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of the embeddings, of length 1 again.

    >>> fuse(np.array([[1, 0], [0, 1]], np.float32)).round(3).tolist()
    [0.7070000171661377, 0.7070000171661377]
    """
    mean_D = embeddings_QD.mean(axis=0)
    return np.asarray(mean_D / max(float(np.linalg.norm(mean_D)), 1e-12), np.float32)


def rank_items(items: Sequence[Scored], top_k: int, min_score: float) -> list[Match]:
    """Return the top_k items as one match each.

    >>> [m.items[0].item_id for m in rank_items([Scored("b", "x", 0.5), Scored("a", "x", 0.5)], 2, -1.0)]
    ['a', 'b']
    """
    return [
        Match(item.identity_id, item.score, (item,))
        for item in sorted(items, key=lambda item: (-item.score, item.item_id))[:top_k]
        if item.score >= min_score
    ]


def rank_identities(items: Sequence[Scored], top_k: int, min_score: float) -> list[Match]:
    """Return the top_k identities, each with its best items.

    >>> items = [Scored("a", "x", 0.5), Scored("b", "y", 0.9), Scored("c", "x", 0.7)]
    >>> [(m.identity_id, m.score, len(m.items)) for m in rank_identities(items, 10, -1.0)]
    [('y', 0.9, 1), ('x', 0.7, 2)]
    """
    groups: dict[str, list[Scored]] = {}
    for item in sorted(items, key=lambda item: (-item.score, item.item_id)):
        groups.setdefault(item.identity_id, []).append(item)
    matches = [Match(key, group[0].score, tuple(group[:ITEMS_PER_MATCH])) for key, group in groups.items()]
    matches.sort(key=lambda match: (-match.score, match.identity_id))
    return [match for match in matches[:top_k] if match.score >= min_score]
