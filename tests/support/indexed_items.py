"""Items to index: a few described one by one, or many in random clusters, one for each identity."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from service.index import Filter, GalleryIndex, Hits, IndexKind, Rows

SIZE = 8
"""Dimensions of the embeddings of single items."""

CLUSTERED_SIZE = 32
"""Dimensions of the embeddings of clustered items."""

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
MIN_RECALL: dict[IndexKind, float] = {"auto": 1, "exact": 1, "hnsw": 0.97, "ivf": 0.97}
"""Least recall@10 of each kind of index on clustered items; `auto` searches this few items exactly."""

KINDS = list(MIN_RECALL)


@dataclass(frozen=True)
class Entry:
    """One item; items with the same number in `embedding` have the same embedding."""

    slot: int
    identity: int
    camera_id: str | None
    captured_at: datetime | None
    embedding: int


def embedding(seed: int) -> NDArray[np.float16]:
    values_D = np.random.default_rng(seed).standard_normal(SIZE)
    return (values_D / np.linalg.norm(values_D)).astype(np.float16)


def rows(entries: list[Entry]) -> Rows:
    return Rows(
        [entry.slot for entry in entries],
        [entry.identity for entry in entries],
        [entry.camera_id for entry in entries],
        [entry.captured_at for entry in entries],
        [None] * len(entries),
        np.array([embedding(entry.embedding) for entry in entries]).reshape(len(entries), SIZE),
    )


def identities_of(index: GalleryIndex, hits: Hits) -> list[int]:
    """Return the identity key of each hit."""
    columns, _, _ = index.matching(Filter())
    rows, is_there = columns.rows_of(hits.slots)
    assert is_there.all()
    return columns.identities.decoded(rows)


def clustered(num: int, seed: int = 0, noise: float = 0.4) -> NDArray[np.float16]:
    """Draw the embeddings of items (N, D); item i is of identity i // 10."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(np.random.default_rng(99).standard_normal((num // 10, CLUSTERED_SIZE)), 10, axis=0)
    drawn_ND = centres + noise * rng.standard_normal((num, CLUSTERED_SIZE))
    drawn_ND /= np.linalg.norm(drawn_ND, axis=1, keepdims=True)
    return np.asarray(drawn_ND, np.float16)


def clustered_rows(embeddings_ND: NDArray[np.float16], start: int, end: int) -> Rows:
    """Return the items from `start` to `end` - 1. Item i has slot i + 1; the cameras are 7 in rotation."""
    numbers = range(start, end)
    return Rows(
        [number + 1 for number in numbers],
        [number // 10 for number in numbers],
        [f"camera {number % 7}" for number in numbers],
        [EPOCH + timedelta(seconds=number) for number in numbers],
        [f"track {number // 5}" for number in numbers],
        embeddings_ND[start:end],
    )


def recall(index: GalleryIndex, embeddings_ND: NDArray[np.float16], only: Filter, alive: list[int]) -> float:
    """Return recall@10: the share of the true 10 best items among `alive` that searches find.

    Queries are other crops of identities in `alive`.
    """
    gallery_ND = embeddings_ND[alive].astype(np.float32)
    queries_QD = clustered(len(embeddings_ND), seed=1)[alive[::400]].astype(np.float32)
    found = 0
    for query_D in queries_QD:
        best = np.argsort(-(gallery_ND @ query_D))[:10]
        hits = index.search(query_D, 10, only)
        found += len(set(hits.slots[:10].tolist()) & {alive[row] + 1 for row in best})
    return found / (10 * len(queries_QD))
