"""Metrics of a model version on the labelled items of a gallery: pure functions, no I/O.

Each item is a query, and the other items are its gallery, by the cross-camera protocol of Market-1501.

Shape suffixes: N items, D dimensions of an embedding, Q queries, C queries of a chunk, I identities, R
resamples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.calibration import NUM_BINS, QUANTILES, PairScores
from model.retrieval import (
    LabelledGallery,
    Split,
    average_precision,
    count_pairs,
    inverse_penalty,
    rank_matches,
    unit_rows,
)
from model.strangers import BestOfStrangers, StrangerRates

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NOWHERE = -1
"""The viewpoint of an item that is left out of an evaluation."""

MAX_QUERIES = 5_000
CHUNK_SCORES = 4_000_000
"""The most cosines in memory at a time: about 50 MB with everything computed from them."""

NUM_RESAMPLES = 2_000
RESAMPLES_AT_ONCE = 1_000_000
SEED = 1


def _ignore(_: int) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation with Q queries.

    Attributes:
        identity_keys: (Q,), the key of each query's identity.
        first_ranks: (Q,), the rank of the first match of each query, from 0.
        average_precisions: (Q,), from 0 to 1; the mean is mAP.
        inverse_penalties: (Q,), from 0 to 1; the mean is mINP.
        scores: the cosines of all pairs of a query and an item of its gallery.
        strangers: how often a stranger scores as high, or None if there are too few people to say.
        num_gallery: how many items were searched.
    """

    identity_keys: Ints
    first_ranks: Ints
    average_precisions: Floats
    inverse_penalties: Floats
    scores: PairScores
    strangers: StrangerRates | None
    num_gallery: int

    def metrics(self) -> dict[str, float]:
        """Return rank1, rank5, mAP and mINP in percent."""
        columns = {
            "rank1": (self.first_ranks < 1).astype(np.float64),
            "rank5": (self.first_ranks < 5).astype(np.float64),
            "mAP": self.average_precisions,
            "mINP": self.inverse_penalties,
        }
        return {name: round(100 * float(np.mean(column)), 3) for name, column in columns.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return counts, metrics, quantiles, thresholds and rates of strangers, ready for JSON."""
        quantiles = {
            kind: {str(quantile): cosine for quantile, cosine in zip(QUANTILES, cosines, strict=True)}
            for kind, cosines in self.scores.quantiles().items()
        }
        return {
            "num_identities": len(np.unique(self.identity_keys)),
            "num_queries": len(self.identity_keys),
            "num_gallery": self.num_gallery,
            "num_same_pairs": int(self.scores.same.sum()),
            "num_different_pairs": int(self.scores.different.sum()),
            **self.metrics(),
            **quantiles,
            **self.scores.verification(),
            "strangers": self.strangers.to_dict() if self.strangers else None,
        }


def viewpoints_of(identity_keys: Ints, camera_codes: Ints, track_codes: Ints) -> Ints:
    """Return the viewpoint of each item, (N,): the code of its camera or track, or NOWHERE.

    If two or more cameras have seen an identity, the viewpoints of its items are their cameras. Otherwise, if
    the identity has two or more tracks, the viewpoints are the tracks. All other items are NOWHERE: items of
    identities with at most one camera and one track, and items whose camera or track is unknown. Viewpoints
    are only comparable within one identity.

    Args:
        identity_keys: (N,), the key of each item's identity.
        camera_codes: (N,), a number for each camera, -1 where the camera is unknown.
        track_codes: (N,), a number for each track, -1 where the track is unknown.

    >>> keys, cameras, tracks = [7, 7, 7, 8, 8, 9], [1, 2, -1, 1, 1, 1], [5, 5, 6, 3, 4, 5]
    >>> viewpoints_of(*map(np.array, (keys, cameras, tracks))).tolist()
    [1, 2, -1, 3, 4, -1]
    """
    _, people = np.unique(identity_keys, return_inverse=True)
    by_camera = _num_codes(people, camera_codes)[people] > 1
    by_track = _num_codes(people, track_codes)[people] > 1
    viewpoints: Ints = np.where(by_camera, camera_codes, np.where(by_track, track_codes, NOWHERE))
    return viewpoints


def _num_codes(people: Ints, codes: Ints) -> Ints:
    """Return how many different known codes each person has."""
    if not len(codes):
        return np.zeros(0, np.int64)
    width = int(codes.max()) + 2
    pairs = np.unique(people[codes >= 0] * width + codes[codes >= 0])
    return np.bincount(pairs // width, minlength=int(people.max()) + 1)


def draw_identities(identity_keys: Ints, most: int) -> NDArray[np.bool_]:
    """Choose all items, or the items of identities drawn at random; return a mask (N,).

    All items are chosen if they are at most `most`. Otherwise identities are drawn, at least two, as long as
    they have at most `most` items together. The draw is seeded, so the same items give the same choice.

    >>> draw_identities(np.repeat([1, 2, 3], 4), 8).sum()
    np.int64(8)
    """
    if len(identity_keys) <= most:
        return np.ones(len(identity_keys), bool)
    _, people, counts = np.unique(identity_keys, return_inverse=True, return_counts=True)
    order = np.random.default_rng(SEED).permutation(len(counts))
    num_taken = max(2, int(np.searchsorted(np.cumsum(counts[order]), most, "right")))
    return np.isin(people, order[:num_taken])


def find_queries(identity_keys: Ints, viewpoints: Ints) -> Ints:
    """Return the positions (Q,) of items whose identity has another item at another viewpoint."""
    _, people = np.unique(identity_keys, return_inverse=True)
    has_match = _num_codes(people, viewpoints)[people] > 1
    return np.flatnonzero(has_match & (viewpoints >= 0))


def evaluate(
    embeddings_ND: NDArray[np.floating],
    identity_keys: Ints,
    viewpoints: Ints,
    *,
    max_queries: int = MAX_QUERIES,
    on_progress: Callable[[int], None] = _ignore,
) -> EvaluationResult:
    """Search the other items for every item that has a match, and measure the rankings.

    The gallery of a query is all other items, except the items of its identity at its own viewpoint. The
    matches of the query are the items of its identity at other viewpoints. A match that ties with an item of
    another identity ranks behind that item. If there are more than `max_queries` queries, only the queries of
    identities drawn at random are searched; the gallery still has all items.

    Args:
        embeddings_ND: (N, D), float16 or float32; the norms do not matter.
        identity_keys: (N,), the key of each item's identity.
        viewpoints: (N,), from `viewpoints_of`, without NOWHERE.
        max_queries: the most queries; two identities are drawn even if they have more queries.
        on_progress: called every few hundred queries with the number of queries that are done.

    Raises:
        ValueError: an embedding is zero or not finite, no item has a match, or all items are of one identity.
    """
    gallery_ND = unit_rows(embeddings_ND, np.float32)
    queries = find_queries(identity_keys, viewpoints)
    queries = queries[draw_identities(identity_keys[queries], max_queries)]
    if not len(queries) or (identity_keys == identity_keys[0]).all():
        raise ValueError("there is no query with a match, or only one identity")
    labels, best_of_strangers = LabelledGallery(identity_keys, viewpoints), BestOfStrangers(identity_keys)
    same, different, strangers = (np.zeros(NUM_BINS, np.int64) for _ in range(3))
    found: list[tuple[int, float, float]] = []
    chunk = max(1, CHUNK_SCORES // len(gallery_ND))
    for start in range(0, len(queries), chunk):
        rows = queries[start : start + chunk]
        scores_CN = gallery_ND[rows] @ gallery_ND.T
        splits = [labels.split(identity_keys[row], viewpoints[row]) for row in rows]
        pairs = count_pairs(scores_CN, splits)
        same += pairs.same
        different += pairs.different
        strangers += best_of_strangers.count(scores_CN, identity_keys[rows])
        distances_CN = np.negative(scores_CN, out=scores_CN)
        found += map(_evaluate_query, distances_CN, splits)
        on_progress(len(found))
    first_ranks, precisions, penalties = zip(*found, strict=True)
    return EvaluationResult(
        identity_keys=identity_keys[queries],
        first_ranks=np.array(first_ranks, np.int64),
        average_precisions=np.array(precisions),
        inverse_penalties=np.array(penalties),
        scores=PairScores(same, different),
        strangers=StrangerRates.count(strangers, len(np.unique(identity_keys[queries]))),
        num_gallery=len(gallery_ND),
    )


def _evaluate_query(distances_N: NDArray[np.floating], split: Split) -> tuple[int, float, float]:
    """Return the first rank, average precision and inverse penalty of a query."""
    ranks = rank_matches(distances_N, split, ties_behind=True)
    return int(ranks[0]), average_precision(ranks), inverse_penalty(ranks)


def compare(candidate: EvaluationResult, reference: EvaluationResult) -> dict[str, dict[str, float]]:
    """Return the gains of the candidate in rank1 and mAP, with 95 % intervals by a paired bootstrap.

    The bootstrap resamples identities, each with all of its queries, 2,000 times with replacement, because
    the queries of one identity are correlated.

    Returns:
        Metric -> `value`, the candidate's metric minus the reference's, and the interval from `low` to
        `high`, all in percentage points.

    Raises:
        ValueError: the two results are not of the same queries.
    """
    if not np.array_equal(candidate.identity_keys, reference.identity_keys):
        raise ValueError("the two results are not of the same queries")
    hits = (candidate.first_ranks < 1).astype(np.float64) - (reference.first_ranks < 1)
    precisions = candidate.average_precisions - reference.average_precisions
    gains_Q2 = 100 * np.stack([hits, precisions], axis=1)
    means = _resampled_means(gains_Q2, candidate.identity_keys)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    rows = zip(("rank1", "mAP"), gains_Q2.mean(axis=0), low, high, strict=True)
    return {
        name: {"value": round(float(value), 3), "low": round(float(a), 3), "high": round(float(b), 3)}
        for name, value, a, b in rows
    }


def _resampled_means(gains_Q2: Floats, identity_keys: Ints) -> Floats:
    """Return the mean gains of each resample of the identities, (NUM_RESAMPLES, 2)."""
    _, people, counts = np.unique(identity_keys, return_inverse=True, return_counts=True)
    num = len(counts)
    sums_I2 = np.stack([np.bincount(people, column, num) for column in gains_Q2.T], axis=1)
    rng = np.random.default_rng(SEED)
    at_once = max(1, RESAMPLES_AT_ONCE // num)
    parts = []
    for start in range(0, NUM_RESAMPLES, at_once):
        size = min(at_once, NUM_RESAMPLES - start)
        times_RI = rng.multinomial(num, np.full(num, 1 / num), size)
        parts.append((times_RI @ sums_I2) / (times_RI @ counts)[:, None])
    return np.concatenate(parts)
