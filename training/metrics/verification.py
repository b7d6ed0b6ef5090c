"""Are these two the same person? The cosines of pairs, and what a threshold on them lets through and misses.

A pair is a query and a gallery image that counts for it by the Market-1501 protocol. Shape legend: Q queries,
G gallery, C a chunk of queries.
"""

import numpy as np
from numpy.typing import NDArray

from model.calibration import NUM_BINS, PairScores, cosine_bins
from training.metrics.ranking import Ints, unit_rows

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
    counts = np.zeros((2, NUM_BINS), np.int64)
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        bins_CG = cosine_bins(queries[rows] @ gallery.T)
        is_same_CG = q_pids[rows, None] == g_pids
        is_other_camera_CG = q_camids[rows, None] != g_camids
        is_person_G = g_pids != -1
        for row, is_kind_CG in enumerate((is_same_CG & is_other_camera_CG, ~is_same_CG)):
            counts[row] += np.bincount(bins_CG[is_kind_CG & is_person_G], minlength=NUM_BINS)
    for count, kind in zip(counts, ("the same person in two cameras", "two different people"), strict=True):
        if not count.any():
            raise ValueError(f"no pair of query and gallery shows {kind}")
    return PairScores(*counts)
