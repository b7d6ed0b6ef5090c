"""Verification: cosines of pairs of crops that show the same person, and of pairs that show different people.

A pair is a query and a gallery item that counts for the query by the Market-1501 protocol. The rates of
strangers go by the best item of each identity instead. Shape legend: Q queries, G gallery, D embedding.
"""

import numpy as np
from numpy.typing import NDArray

from model.calibration import NUM_BINS, PairScores
from model.retrieval import LabelledGallery, count_pairs, unit_rows
from model.strangers import BestOfStrangers, StrangerRates
from training.data.datasets import DISTRACTOR_PID, JUNK_PID
from training.metrics.ranking import Ints

FALSE_MATCH_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


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
    """Count the cosines of all pairs of a query and a gallery item.

    A pair shows the same person if one identity is seen in two cameras, and different people if the
    identities differ. Junk (-1) is in no pair. Distractors (0) are people other than any query.

    Args:
        queries_QD: float (Q, D), of any length but 0.
        gallery_GD: float (G, D), of any length but 0.
        q_pids: int64 (Q,), the identity of each query.
        g_pids: int64 (G,), the identity of each gallery item.
        q_camids: int64 (Q,), the camera of each query.
        g_camids: int64 (G,), the camera of each gallery item.
        chunk: queries whose cosines are held at a time, 1 or more.

    Raises:
        ValueError: a row is zero or not finite, or one of the two kinds has no pair.
    """
    queries, gallery = unit_rows(queries_QD), unit_rows(gallery_GD)
    labels = LabelledGallery(g_pids, g_camids, junk=JUNK_PID)
    same, different = np.zeros(NUM_BINS, np.int64), np.zeros(NUM_BINS, np.int64)
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        pairs = count_pairs(queries[rows] @ gallery.T, list(map(labels.split, q_pids[rows], q_camids[rows])))
        same += pairs.same
        different += pairs.different
    for counts, kind in ((same, "the same person in two cameras"), (different, "two different people")):
        if not counts.any():
            raise ValueError(f"no pair of query and gallery shows {kind}")
    return PairScores(same, different)


def count_strangers(
    queries_QD: NDArray[np.floating],
    gallery_GD: NDArray[np.floating],
    q_pids: Ints,
    g_pids: Ints,
    *,
    chunk: int = 256,
) -> StrangerRates | None:
    """Count how often the best item of another identity reaches a cosine, for all queries.

    Junk (-1) and distractors (0) are left out, because neither is one person. All cameras count, because a
    stranger of the query's own camera is a stranger too.

    Args:
        queries_QD: float (Q, D), of any length but 0.
        gallery_GD: float (G, D), of any length but 0.
        q_pids: int64 (Q,), the identity of each query.
        g_pids: int64 (G,), the identity of each gallery item.
        chunk: queries whose cosines are held at a time, 1 or more.

    Returns:
        The rates, or None if there are too few people or pairs: see `StrangerRates.count`.

    Raises:
        ValueError: a row is zero or not finite.
    """
    queries, gallery = unit_rows(queries_QD), unit_rows(gallery_GD)
    counter = BestOfStrangers(g_pids, left_out=(JUNK_PID, DISTRACTOR_PID))
    counts = np.zeros(NUM_BINS, np.int64)
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        counts += counter.count(queries[rows] @ gallery.T, q_pids[rows])
    return StrangerRates.count(counts, len(np.unique(q_pids)))
