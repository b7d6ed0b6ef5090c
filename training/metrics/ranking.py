"""Re-identification metrics by the Market-1501 protocol. Shape legend: Q queries, G gallery."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Ints = NDArray[np.int64]
RowsOf = Callable[[slice], NDArray[np.floating]]
"""Gives the distances (C, G) of a slice of the queries; called from several threads."""

NUM_THREADS = min(8, torch.get_num_threads())
"""Of the cores this process may run on, or OMP_NUM_THREADS; each thread holds one chunk of distances."""


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


class _Labels:
    """The labels of a gallery, arranged to find the images of one identity without a look at all."""

    def __init__(self, pids: Ints, camids: Ints) -> None:
        self.pids, self.camids = pids, camids
        self.junk = np.flatnonzero(pids == -1)
        self._order = np.argsort(pids, kind="stable")
        self._sorted = pids[self._order]

    def split(self, pid: int, camid: int) -> tuple[Ints, Ints]:
        """Return where a query's matches are, and the images of its identity that do not count."""
        low, high = np.searchsorted(self._sorted, pid, "left"), np.searchsorted(self._sorted, pid, "right")
        same = self._order[low:high]
        is_out = is_excluded(pid, camid, self.pids[same], self.camids[same])
        return same[~is_out], same[is_out]


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

    Queries with no match in another camera do not count. Of equal distances the first in the gallery ranks
    first. mINP after Ye et al., TPAMI 2021, section 4.1.

    Raises:
        ValueError: shapes disagree, a distance is NaN, or no query has a match.
    """
    if distmat.shape != (len(q_pids), len(g_pids)):
        raise ValueError(f"distmat is {distmat.shape}, the labels are for ({len(q_pids)}, {len(g_pids)})")
    return evaluate_rows(lambda rows: distmat[rows], q_pids, g_pids, q_camids, g_camids, max_rank=max_rank)


def evaluate_embeddings(
    queries_QD: NDArray[np.floating],
    gallery_GD: NDArray[np.floating],
    q_pids: Ints,
    g_pids: Ints,
    q_camids: Ints,
    g_camids: Ints,
    *,
    max_rank: int = 50,
    chunk: int = 256,
) -> Metrics:
    """Judge embeddings (Q, D) and (G, D) of any length by 1 - cosine, and never hold all Q x G distances.

    The figures are those of evaluate_distmat; a thread holds the distances of ``chunk`` queries.

    Raises:
        ValueError: shapes disagree, a row is zero or not finite, or no query has a match.
    """
    if len(queries_QD) != len(q_pids) or len(gallery_GD) != len(g_pids):
        given = f"({len(queries_QD)}, {len(gallery_GD)})"
        raise ValueError(f"embeddings are {given}, the labels are for ({len(q_pids)}, {len(g_pids)})")
    if queries_QD.ndim != 2 or gallery_GD.ndim != 2 or queries_QD.shape[1] != gallery_GD.shape[1]:
        raise ValueError(f"embeddings are {queries_QD.shape} and {gallery_GD.shape}, not (Q, D) and (G, D)")
    queries, gallery = unit_rows(queries_QD), unit_rows(gallery_GD)

    def distances_of(rows: slice) -> NDArray[np.floating]:
        products = queries[rows] @ gallery.T
        distances: NDArray[np.floating] = np.subtract(1, products, out=products)
        return distances

    return evaluate_rows(distances_of, q_pids, g_pids, q_camids, g_camids, max_rank=max_rank, chunk=chunk)


def unit_rows(embeddings_ND: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the rows at length 1.

    Raises:
        ValueError: a row is zero or not finite, so that it has no cosine.

    >>> unit_rows(np.array([[3.0, 4.0]])).tolist()
    [[0.6, 0.8]]
    """
    lengths = np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError("an embedding is zero, NaN or infinite; it has no cosine")
    rows: NDArray[np.floating] = embeddings_ND / lengths
    return rows


def evaluate_rows(
    distances_of: RowsOf,
    q_pids: Ints,
    g_pids: Ints,
    q_camids: Ints,
    g_camids: Ints,
    *,
    max_rank: int = 50,
    chunk: int = 256,
) -> Metrics:
    """Judge distances that are made ``chunk`` queries at a time, in threads: what evaluate_distmat returns.

    Raises:
        ValueError: labels disagree, a distance is NaN, or no query has a match.
    """
    if len(q_pids) != len(q_camids) or len(g_pids) != len(g_camids):
        sizes = f"({len(q_pids)}, {len(g_pids)})"
        raise ValueError(f"identities are {sizes}, the labels are for ({len(q_camids)}, {len(g_camids)})")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be 1 or more")
    labels = _Labels(g_pids, g_camids)

    def judge(start: int) -> list[tuple[float, ...]]:
        rows = slice(start, min(start + chunk, len(q_pids)))
        return _judge_chunk(distances_of(rows), q_pids[rows], q_camids[rows], labels)

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        judged = [query for part in threads.map(judge, range(0, len(q_pids), chunk)) for query in part]
    if not judged:
        raise ValueError("no query has a match in the gallery from another camera")
    first_ranks, *columns = np.array(judged).T
    cmc = np.mean(first_ranks[:, None] <= np.arange(min(max_rank, len(g_pids))), axis=0)
    mean_ap, mean_trapezoid, mean_inp = (float(np.mean(column)) for column in columns)
    return Metrics(cmc, mean_ap, mean_trapezoid, mean_inp, len(judged))


def _judge_chunk(
    distances_CG: NDArray[np.floating], pids: Ints, camids: Ints, labels: _Labels
) -> list[tuple[float, ...]]:
    """Return first rank (from 0), AP, trapezoidal AP and INP of each query that has a match."""
    judged: list[tuple[float, ...]] = []
    for distances, pid, camid in zip(distances_CG, pids, camids, strict=True):
        if np.isnan(distances).any():
            raise ValueError("distmat holds NaN")
        matches, others = labels.split(pid, camid)
        if not len(matches):
            continue
        kept = distances.astype(np.result_type(distances, np.float32))
        kept[labels.junk] = kept[others] = np.nan  # sorts behind all else, and equals nothing
        ranks = _ranks(kept, matches)
        hits = np.arange(1, len(ranks) + 1)
        at_hit = hits / (ranks + 1)
        before_hit = np.where(ranks > 0, (hits - 1) / np.maximum(ranks, 1), 1.0)
        trapezoid = np.mean((before_hit + at_hit) / 2)
        inp = len(ranks) / (ranks[-1] + 1)
        judged.append((float(ranks[0]), float(np.mean(at_hit)), float(trapezoid), float(inp)))
    return judged


def _ranks(kept: NDArray[np.floating], matches: Ints) -> Ints:
    """Return the ascending ranks of the matches in a row, as a stable argsort would place them.

    Sorting values is many times faster than argsort; of equal values, those before a match in the row count.
    """
    values, ordered = kept[matches], np.sort(kept)
    ranks = np.searchsorted(ordered, values, "left")
    is_tied = np.searchsorted(ordered, values, "right") > ranks + 1
    for tied in np.flatnonzero(is_tied):
        ranks[tied] += np.count_nonzero(kept[: matches[tied]] == values[tied])
    return np.sort(ranks)
