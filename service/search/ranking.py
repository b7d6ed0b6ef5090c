"""Rank scored items as matches: pure functions, no I/O.

A score is a cosine. Ties are broken by id, so equal galleries give equal answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ITEMS_PER_MATCH = {"identity": 5, "track": 5, "camera": 1, "item": 1}
"""The most items of a match, by what is ranked."""


@dataclass(frozen=True)
class Scored:
    """A found item: its identity, its score, and the key of the group that is ranked, such as its track."""

    item_id: str
    identity_id: str
    score: float
    group_key: int


@dataclass(frozen=True)
class Match:
    """A ranked group with its best items. Its identity and score are those of the best item."""

    identity_id: str
    score: float
    items: tuple[Scored, ...]


def fuse(embeddings_QD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the L2-normalised mean (D,) of embeddings (Q, D), which stands for one person.

    >>> fuse(np.array([[1, 0], [0, 1]], np.float32)).round(3).tolist()
    [0.7070000171661377, 0.7070000171661377]
    """
    mean_D = embeddings_QD.mean(axis=0)
    return np.asarray(mean_D / max(float(np.linalg.norm(mean_D)), 1e-12), np.float32)


def rank_items(items: Sequence[Scored], top_k: int, min_score: float) -> list[Match]:
    """Return the `top_k` best items, each as a match of its own.

    >>> items = [Scored("b", "x", 0.5, 1), Scored("a", "x", 0.5, 1)]
    >>> [match.items[0].item_id for match in rank_items(items, 2, -1.0)]
    ['a', 'b']
    """
    return [
        Match(item.identity_id, item.score, (item,))
        for item in sorted(items, key=lambda item: (-item.score, item.item_id))[:top_k]
        if item.score >= min_score
    ]


def rank_groups(items: Sequence[Scored], top_k: int, items_each: int, min_score: float) -> list[Match]:
    """Return the `top_k` best groups, each with its `items_each` best items.

    >>> items = [Scored("a", "x", 0.5, 1), Scored("b", "y", 0.9, 2), Scored("c", "x", 0.7, 1)]
    >>> [(m.identity_id, m.score, len(m.items)) for m in rank_groups(items, 10, 5, -1.0)]
    [('y', 0.9, 1), ('x', 0.7, 2)]
    """
    groups: dict[int, list[Scored]] = {}
    for item in sorted(items, key=lambda item: (-item.score, item.item_id)):
        groups.setdefault(item.group_key, []).append(item)
    matches = [Match(g[0].identity_id, g[0].score, tuple(g[:items_each])) for g in groups.values()]
    matches.sort(key=lambda match: (-match.score, match.identity_id, match.items[0].item_id))
    return [match for match in matches[:top_k] if match.score >= min_score]
