"""Re-identification metrics by the Market-1501 protocol. Shape legend: Q queries, G gallery."""

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
