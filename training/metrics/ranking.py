"""Re-identification metrics by the Market-1501 protocol: rank-k, mAP and mINP.

Shape legend: Q queries, G gallery, C a chunk of queries, D embedding.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.retrieval import (
    LabelledGallery,
    Split,
    average_precision,
    inverse_penalty,
    match_curve,
    rank_matches,
    trapezoid_precision,
    unit_rows,
)
from training.data.datasets import JUNK_PID

Ints = NDArray[np.int64]
RowsOf = Callable[[slice], NDArray[np.floating]]
"""Returns the distances (C, G) of a slice of the queries. Several threads call it at once."""

NUM_THREADS = min(8, torch.get_num_threads())
"""Threads that evaluate, one chunk each: as many as torch's (cores or OMP_NUM_THREADS), at most 8."""


@dataclass(frozen=True)
class Metrics:
    """The metrics of a query set against a gallery, as fractions 0-1.

    Attributes:
        cmc: float64 (max_rank,); element k - 1 is the share of queries with a match in the first k.
        mAP: mean average precision by steps, as most code computes it.
        mAP_trapezoid: mean average precision by trapezoids, as Market-1501's own evaluation code computes it;
            the two mAPs differ by up to 2.7 points.
        mINP: mean inverse negative penalty.
        num_valid_queries: how many queries have a match; the others count in no metric.
    """

    cmc: NDArray[np.float64]
    mAP: float  # noqa: N815 - its usual name
    mAP_trapezoid: float  # noqa: N815
    mINP: float  # noqa: N815
    num_valid_queries: int

    def percent(self) -> dict[str, float]:
        """Return rank1, rank5, rank10, mAP, mAP_trapezoid and mINP in percent."""
        ranks = {f"rank{k}": 100 * float(self.cmc[k - 1]) for k in (1, 5, 10) if k <= len(self.cmc)}
        means = {"mAP": self.mAP, "mAP_trapezoid": self.mAP_trapezoid, "mINP": self.mINP}
        return ranks | {name: 100 * value for name, value in means.items()}


def evaluate_distmat(
    distmat: NDArray[np.floating],
    q_pids: Ints,
    g_pids: Ints,
    q_camids: Ints,
    g_camids: Ints,
    *,
    max_rank: int = 50,
) -> Metrics:
    """Evaluate a distance matrix by the protocol of Market-1501.

    Junk (identity -1), and the query's identity in the query's own camera, do not count. Queries with no
    match in another camera do not count. At equal distances, the earlier item of the gallery ranks first.

    Args:
        distmat: (Q, G), of a real type; any order-preserving distance. Infinity is allowed.
        q_pids: int64 (Q,), the identity of each query.
        g_pids: int64 (G,), the identity of each gallery item: -1 is junk, 0 a distractor.
        q_camids: int64 (Q,), the camera of each query.
        g_camids: int64 (G,), the camera of each gallery item.
        max_rank: the longest list for which the CMC is computed, 1 or more.

    Returns:
        The metrics; the CMC has min(max_rank, G) elements.

    Raises:
        ValueError: shapes disagree, a distance is NaN, or no query has a match.

    Source: Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015; mINP from Ye et al.,
    TPAMI 2021, section 4.1.

    >>> distmat, labels = np.array([[0.1, 0.2, 0.3]]), [[7], [7, 3, 7], [1], [1, 2, 2]]
    >>> evaluate_distmat(distmat, *map(np.array, labels)).percent()["mAP"]
    50.0
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
    """Evaluate embeddings by 1 - cosine, without ever holding all Q x G distances.

    The protocol is that of `evaluate_distmat`.

    Args:
        queries_QD: float (Q, D), of any length but 0.
        gallery_GD: float (G, D), of any length but 0.
        q_pids: int64 (Q,), as for `evaluate_distmat`.
        g_pids: int64 (G,), as for `evaluate_distmat`.
        q_camids: int64 (Q,), the camera of each query.
        g_camids: int64 (G,), the camera of each gallery item.
        max_rank: the longest list for which the CMC is computed, 1 or more.
        chunk: queries whose distances a thread holds at a time, 1 or more.

    Returns:
        The metrics that `evaluate_distmat` returns for the same distances.

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
    """Evaluate distances that are computed for some queries at a time, in threads.

    The protocol is that of `evaluate_distmat`.

    Args:
        distances_of: returns the distances (C, G) of a slice of at most `chunk` queries; is not modified.
        q_pids: int64 (Q,), as for `evaluate_distmat`.
        g_pids: int64 (G,), as for `evaluate_distmat`.
        q_camids: int64 (Q,), the camera of each query.
        g_camids: int64 (G,), the camera of each gallery item.
        max_rank: the longest list for which the CMC is computed, 1 or more.
        chunk: queries whose distances a thread holds at a time, 1 or more.

    Returns:
        The metrics that `evaluate_distmat` returns for the same distances.

    Raises:
        ValueError: labels disagree, a distance is NaN, or no query has a match.
    """
    if len(q_pids) != len(q_camids) or len(g_pids) != len(g_camids):
        sizes = f"({len(q_pids)}, {len(g_pids)})"
        raise ValueError(f"identities are {sizes}, the labels are for ({len(q_camids)}, {len(g_camids)})")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be 1 or more")
    labels = LabelledGallery(g_pids, g_camids, junk=JUNK_PID)

    def evaluate_chunk(start: int) -> list[tuple[float, ...]]:
        rows = slice(start, min(start + chunk, len(q_pids)))
        splits = map(labels.split, q_pids[rows], q_camids[rows])
        queries = zip(distances_of(rows), splits, strict=True)
        results = (_evaluate_query(distances_G, split) for distances_G, split in queries)
        return [result for result in results if result is not None]

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        parts = threads.map(evaluate_chunk, range(0, len(q_pids), chunk))
        evaluated = [query for part in parts for query in part]
    if not evaluated:
        raise ValueError("no query has a match in the gallery from another camera")
    first_ranks, *columns = np.array(evaluated).T
    cmc = match_curve(first_ranks, min(max_rank, len(g_pids)))
    mean_ap, mean_trapezoid, mean_inp = (float(np.mean(column)) for column in columns)
    return Metrics(cmc, mean_ap, mean_trapezoid, mean_inp, len(evaluated))


def _evaluate_query(distances_G: NDArray[np.floating], split: Split) -> tuple[float, ...] | None:
    """Return first rank (from 0), AP, trapezoidal AP and INP of a query; None if it has no match."""
    if np.isnan(distances_G).any():
        raise ValueError("distmat holds NaN")
    ranks = rank_matches(distances_G, split)
    if not len(ranks):
        return None
    return float(ranks[0]), average_precision(ranks), trapezoid_precision(ranks), inverse_penalty(ranks)
