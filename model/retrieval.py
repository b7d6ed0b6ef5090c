"""The retrieval protocol of Market-1501: the items that count for a query, and the ranks of its matches.

Source: Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015. Shape legend: G gallery,
M matches of a query, Q queries, C a chunk of queries, N rows, D embedding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from model.calibration import NUM_BINS, PairScores, cosine_bins

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Split(NamedTuple):
    """Two groups of items of a gallery, for one query. All other items show other people.

    Attributes:
        matches: int64 (M,), the items of the query's identity in other cameras, ascending.
        excluded: int64, the items that do not count: the query's identity in its own camera, and junk.
    """

    matches: Ints
    excluded: Ints


class LabelledGallery:
    """The identities and cameras of a gallery, sorted so that a query finds its own identity by bisection.

    >>> gallery = LabelledGallery(np.array([7, 7, -1, 3]), np.array([1, 2, 2, 1]), junk=-1)
    >>> gallery.split(7, 1)
    Split(matches=array([1]), excluded=array([2, 0]))
    """

    def __init__(self, identities_G: Ints, cameras_G: Ints, *, junk: int | None = None) -> None:
        """Take the labels.

        Args:
            identities_G: (G,), the identity of each item.
            cameras_G: (G,), the camera of each item, or another viewpoint, such as a track.
            junk: the identity of items that count for no query; None if there is no such identity.
        """
        self._cameras = cameras_G
        self._order = np.argsort(identities_G, kind="stable")
        self._sorted = identities_G[self._order]
        self._junk = junk
        self._junk_items = np.zeros(0, np.int64) if junk is None else np.flatnonzero(identities_G == junk)

    def split(self, identity: int, camera: int) -> Split:
        """Return the matches of a query and the items that do not count for it."""
        if identity == self._junk:
            return Split(self._junk_items[:0], self._junk_items)
        low, high = (np.searchsorted(self._sorted, identity, side) for side in ("left", "right"))
        own = self._order[low:high]
        is_seen_again = self._cameras[own] != camera
        excluded = np.concatenate([self._junk_items, own[~is_seen_again]])
        return Split(own[is_seen_again], excluded)


def rank_matches(distances_G: NDArray[np.floating], split: Split, *, ties_behind: bool = False) -> Ints:
    """Return the ranks of a query's matches among the items that count, int64 (M,), from 0, ascending.

    The ranks are counted: only the items that are as near as the farthest match are sorted.

    Args:
        distances_G: (G,), any order-preserving distance; infinity is allowed, NaN is not.
        split: of the gallery for the query.
        ties_behind: True if a match ranks behind every other person at the same distance. False if the items
            at one distance rank in the order of the gallery, as in a stable argsort.

    >>> split = Split(matches=np.array([1, 3]), excluded=np.array([0]))
    >>> distances = np.array([0.1, 0.2, 0.2, 0.4])
    >>> rank_matches(distances, split).tolist(), rank_matches(distances, split, ties_behind=True).tolist()
    ([0, 2], [1, 2])
    """
    if not len(split.matches):
        return np.zeros(0, np.int64)
    matches = split.matches[np.argsort(distances_G[split.matches], kind="stable")]
    values = distances_G[matches]
    is_rival_G = distances_G <= values[-1]
    is_rival_G[matches] = is_rival_G[split.excluded] = False
    rivals = np.sort(distances_G.take(np.flatnonzero(is_rival_G)))  # twice as fast as by the mask
    num_before = np.searchsorted(rivals, values, "right")
    if not ties_behind:
        num_nearer = np.searchsorted(rivals, values, "left")
        for place in np.flatnonzero(num_nearer < num_before):
            earlier = slice(0, matches[place])
            is_tied = is_rival_G[earlier] & (distances_G[earlier] == values[place])
            num_nearer[place] += np.count_nonzero(is_tied)
        num_before = num_nearer
    ranks: Ints = num_before + np.arange(len(matches))
    return ranks


def average_precision(ranks: Ints) -> float:
    """Return the step-wise average precision, 0-1, of matches at these ranks; NaN if there is no match.

    Args:
        ranks: (M,), from 0, ascending.

    >>> average_precision(np.array([0, 3])), average_precision(np.array([], int))
    (0.75, nan)
    """
    return float(np.mean(np.arange(1, len(ranks) + 1) / (ranks + 1))) if len(ranks) else float("nan")


def trapezoid_precision(ranks: Ints) -> float:
    """Return the average precision, 0-1, by trapezoids, as Market-1501's own evaluation code computes it.

    Straight lines join the points of the precision-recall curve, from the precision before a match to the
    precision at the match. The precision before the first item is 1.

    Args:
        ranks: (M,), one or more, from 0, ascending.

    >>> trapezoid_precision(np.array([0, 3]))
    0.7083333333333333
    """
    hits = np.arange(1, len(ranks) + 1)
    before_hit = np.where(ranks > 0, (hits - 1) / np.maximum(ranks, 1), 1.0)
    return float(np.mean((before_hit + hits / (ranks + 1)) / 2))


def inverse_penalty(ranks: Ints) -> float:
    """Return the inverse negative penalty, 0-1: the matches' share of the list that ends with the last match.

    The mean over queries is mINP: Ye et al., "Deep Learning for Person Re-identification: A Survey and
    Outlook", TPAMI 2021, section 4.1.

    Args:
        ranks: (M,), one or more, from 0, ascending.

    >>> inverse_penalty(np.array([0, 3]))
    0.5
    """
    return len(ranks) / (int(ranks[-1]) + 1)


def match_curve(first_ranks_Q: NDArray[np.number], max_rank: int) -> Floats:
    """Return the cumulative match characteristic, float64 (max_rank,), as fractions 0-1.

    Element k - 1 is the share of queries with a match among the first k items.

    Args:
        first_ranks_Q: (Q,), the rank of the first match of each query, from 0.
        max_rank: the length of the curve.

    >>> match_curve(np.array([0, 2]), 3).tolist()
    [0.5, 0.5, 1.0]
    """
    curve: Floats = np.mean(first_ranks_Q[:, None] <= np.arange(max_rank), axis=0)
    return curve


def count_pairs(cosines_CG: NDArray[np.floating], splits: Sequence[Split]) -> PairScores:
    """Count the cosines of queries and the items that count for them, by bins.

    Args:
        cosines_CG: (C, G), from -1 to 1.
        splits: of the gallery, one for each query.
    """
    bins_CG = cosine_bins(cosines_CG)
    different = np.bincount(bins_CG.ravel(), minlength=NUM_BINS)
    same = np.zeros(NUM_BINS, np.int64)
    for bins_G, split in zip(bins_CG, splits, strict=True):
        np.add.at(same, bins_G[split.matches], 1)
        np.subtract.at(different, bins_G[split.matches], 1)
        np.subtract.at(different, bins_G[split.excluded], 1)
    return PairScores(same, different)


def unit_rows(embeddings_ND: NDArray[np.floating], dtype: DTypeLike | None = None) -> NDArray[np.floating]:
    """Return a copy of embeddings with every row at L2 norm 1.

    Args:
        embeddings_ND: (N, D), of any length but 0.
        dtype: of the copy and of the arithmetic; None for that of the embeddings.

    Raises:
        ValueError: a row is zero or not finite, so that no cosine is defined.

    >>> unit_rows(np.array([[3.0, 4.0]])).tolist()
    [[0.6, 0.8]]
    """
    rows_ND: NDArray[np.floating] = np.array(embeddings_ND, dtype)
    lengths_N1 = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    if not (np.isfinite(lengths_N1) & (lengths_N1 > 0)).all():
        raise ValueError("an embedding is zero, NaN or infinite; it has no cosine")
    rows_ND /= lengths_N1
    return rows_ND
