"""Are these two the same person? The cosines of pairs, and what a threshold on them lets through and misses.

A pair is a query and a gallery image that counts for it by the Market-1501 protocol. Shape legend: Q queries,
G gallery, C a chunk of queries, B bins.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.metrics import Ints, unit_rows

BINS_A_UNIT = 10_000
"""Cosines are counted in steps of 0.0001, each with what lies up to a step above it."""
NUM_BINS = 2 * BINS_A_UNIT + 1
FALSE_MATCH_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True)
class Threshold:
    """What is called the same person from this cosine on; rates are fractions 0-1."""

    cosine: float
    false_match_rate: float  # of the pairs of different people, those at or above it
    false_non_match_rate: float  # of the pairs of one person, those below it


@dataclass(frozen=True)
class PairScores:
    """How many pairs of one person, and of different people, have each cosine: int64 (B)."""

    same: Ints
    different: Ints

    def threshold(self, false_match_rate: float) -> Threshold:
        """Return the lowest threshold that lets through no more than this share of different people."""
        rates = _share_from(self.different)
        place = int(np.argmax(rates <= false_match_rate)) if (rates <= false_match_rate).any() else NUM_BINS
        missed = 1 - _share_from(self.same)[place] if place < NUM_BINS else 1.0
        passed = rates[place] if place < NUM_BINS else 0.0
        return Threshold(_cosine(place), float(passed), float(missed))

    def quantiles(self) -> dict[str, list[float]]:
        """Return the cosines below which QUANTILES of the pairs lie, of ``same`` and ``different``."""
        return {"same": _quantiles(self.same), "different": _quantiles(self.different)}


def score_pairs(
    queries_QD: NDArray[np.floating],
    gallery_GD: NDArray[np.floating],
    q_pids: Ints,
    g_pids: Ints,
    q_camids: Ints,
    g_camids: Ints,
    *,
    chunk: int = 256,
) -> PairScores:
    """Count the cosines of embeddings (Q, D) and (G, D): of one identity in two cameras, and of two.

    Junk (-1) is in no pair; distractors (0) are people other than any query.

    Raises:
        ValueError: a row is zero or not finite, or one of the two kinds has no pair.
    """
    queries, gallery = unit_rows(queries_QD), unit_rows(gallery_GD)
    counts = np.zeros((2, NUM_BINS), np.int64)
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        bins_CG = _bins(queries[rows] @ gallery.T)
        is_same_CG = q_pids[rows, None] == g_pids
        is_other_camera_CG = q_camids[rows, None] != g_camids
        is_person_G = g_pids != -1
        for row, is_kind_CG in enumerate((is_same_CG & is_other_camera_CG, ~is_same_CG)):
            counts[row] += np.bincount(bins_CG[is_kind_CG & is_person_G], minlength=NUM_BINS)
    for count, kind in zip(counts, ("the same person in two cameras", "two different people"), strict=True):
        if not count.any():
            raise ValueError(f"no pair of query and gallery shows {kind}")
    return PairScores(*counts)


def _bins(cosines: NDArray[np.floating]) -> Ints:
    places = np.floor((cosines.astype(np.float64) + 1) * BINS_A_UNIT)
    bins: Ints = np.clip(places, 0, NUM_BINS - 1).astype(np.int64)
    return bins


def _cosine(place: int) -> float:
    return round(place / BINS_A_UNIT - 1, 4)


def _share_from(counts: Ints) -> NDArray[np.float64]:
    """Return of each bin the share of pairs in it and above."""
    shares: NDArray[np.float64] = counts[::-1].cumsum()[::-1] / counts.sum()
    return shares


def _quantiles(counts: Ints) -> list[float]:
    shares = counts.cumsum() / counts.sum()
    return [_cosine(int(np.searchsorted(shares, quantile))) for quantile in QUANTILES]
