"""Are these two the same person? The cosines of pairs, and what a threshold on them lets through and misses.

A pair is a query and a gallery image that counts for it by the Market-1501 protocol. Shape legend: Q queries,
G gallery, C a chunk of queries.
"""

import numpy as np
from numpy.typing import NDArray

from model.calibration import NUM_BINS, PairScores
from model.retrieval import LabelledGallery, count_pairs, unit_rows
from training.data.datasets import JUNK_PID
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
    """Count the cosines of embeddings (Q, D) and (G, D): of one identity in two cameras, and of two.

    Junk (-1) is in no pair; distractors (0) are people other than any query.

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
