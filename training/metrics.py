"""Re-identification metrics by the Market-1501 protocol. Shape legend: Q queries, G gallery."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Metrics:
    """Fractions 0-1: cmc[k-1] is the share of queries with a match in the first k; the others are means.

    mAP is step-wise, as most code has it; mAP_trapezoid is that of Market-1501's own evaluation code, which
    joins the points of the precision-recall curve by straight lines. They differ by up to 2.7 points.
    """

    cmc: NDArray[np.float64]
    mAP: float  # noqa: N815 - the field's name for it
    mAP_trapezoid: float  # noqa: N815
    mINP: float  # noqa: N815
    num_valid_queries: int

    def percent(self) -> dict[str, float]:
        """Return rank1, rank5, rank10, mAP, mAP_trapezoid and mINP in percent."""
        ranks = {f"rank{k}": 100 * float(self.cmc[k - 1]) for k in (1, 5, 10) if k <= len(self.cmc)}
        means = {"mAP": self.mAP, "mAP_trapezoid": self.mAP_trapezoid, "mINP": self.mINP}
        return ranks | {name: 100 * value for name, value in means.items()}


def is_excluded(pid: int, camid: int, g_pids: Ints, g_camids: Ints) -> NDArray[np.bool_]:
    """Say which gallery images do not count for a query: junk (-1), and its own identity in its own camera.

    >>> is_excluded(7, 1, np.array([7, 7, -1, 3]), np.array([1, 2, 2, 1])).tolist()
    [True, False, True, False]
    """
    excluded: NDArray[np.bool_] = (g_pids == -1) | ((g_pids == pid) & (g_camids == camid))
    return excluded


def evaluate_distmat(
    distmat: NDArray[np.floating],
    q_pids: Ints,
    g_pids: Ints,
    q_camids: Ints,
    g_camids: Ints,
    *,
    max_rank: int = 50,
) -> Metrics:
    """Judge a distance matrix (Q, G): CMC, mAP by steps and by trapezoids, and mINP.

    Queries with no match in another camera do not count. mINP after Ye et al., TPAMI 2021, section 4.1.

    Raises:
        ValueError: shapes disagree, a distance is NaN, or no query has a match.
    """
    if distmat.shape != (len(q_pids), len(g_pids)) or distmat.shape != (len(q_camids), len(g_camids)):
        raise ValueError(f"distmat is {distmat.shape}, the labels are for ({len(q_pids)}, {len(g_pids)})")
    if np.isnan(distmat).any():
        raise ValueError("distmat holds NaN")
    max_rank = min(max_rank, len(g_pids))
    hits_in_rank, precisions, trapezoids, penalties = np.zeros(max_rank), [], [], []
    for distances, pid, camid in zip(distmat, q_pids, q_camids, strict=True):
        order = np.argsort(distances, kind="stable")
        order = order[~is_excluded(pid, camid, g_pids, g_camids)[order]]
        ranks = np.flatnonzero(g_pids[order] == pid)
        if not len(ranks):
            continue
        hits_in_rank[ranks[0] :] += 1
        hits = np.arange(1, len(ranks) + 1)
        at_hit = hits / (ranks + 1)
        before_hit = np.where(ranks > 0, (hits - 1) / np.maximum(ranks, 1), 1.0)
        precisions.append(np.mean(at_hit))
        trapezoids.append(np.mean((before_hit + at_hit) / 2))
        penalties.append(len(ranks) / (ranks[-1] + 1))
    if not precisions:
        raise ValueError("no query has a match in the gallery from another camera")
    num_valid = len(precisions)
    mean_ap, mean_trapezoid, mean_inp = (float(np.mean(v)) for v in (precisions, trapezoids, penalties))
    return Metrics(hits_in_rank / num_valid, mean_ap, mean_trapezoid, mean_inp, num_valid)
