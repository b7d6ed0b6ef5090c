"""Re-ranking by k-reciprocal neighbours, with sparse matrices.

Source: Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017, section 3.
As in the authors' code, each row of distances is first divided by its largest value, and then squared.
Shape legend: Q queries, G gallery, N = Q + G, K nearest, C a chunk of rows, D embedding.
"""

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from model.retrieval import unit_rows
from training.metrics.ranking import NUM_THREADS, RowsOf

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
DistancesAt = Callable[[Ints, Ints], Floats]

CHUNK = 256
"""Rows of distances that are computed at a time."""
PAIRS = 2**16
"""Pairs of embeddings whose distances are computed at a time."""


def rerank_distances(
    qg: NDArray[np.floating],
    qq: NDArray[np.floating],
    gg: NDArray[np.floating],
    k1: int = 20,
    k2: int = 6,
    lambda_: float = 0.3,
) -> Floats:
    """Re-rank a distance matrix by k-reciprocal neighbours.

    Memory: all distances are held as one float32 (N, N); all else is sparse. For more items than that
    allows, see `rerank_embeddings`. At equal distances, the item with the lower index is the nearer one.

    Args:
        qg: float (Q, G), distances of queries to the gallery, unsquared and finite.
        qq: float (Q, Q), distances within the queries, symmetric.
        gg: float (G, G), distances within the gallery, symmetric.
        k1: neighbours of which the reciprocal sets are made, 1 or more; above N means all N.
        k2: neighbours over which the encodings are averaged, 1 or more; above N means all N.
        lambda_: the weight of the original distance in the result, 0-1; the rest is the Jaccard distance.

    Returns:
        float32 (Q, G), the final distances of equation 12.

    Raises:
        ValueError: shapes disagree, a distance is not finite, or k1, k2 or lambda_ is out of range.
    """
    _check_parameters(k1, k2, lambda_)
    _check_distances(qg, qq, gg)
    num_queries = len(qg)
    distances_NN: Floats = np.block([[qq, qg], [qg.T, gg]]).astype(np.float32)
    largest_N1 = np.abs(distances_NN).max(axis=1, keepdims=True)
    distances_NN /= np.where(largest_N1 > 0, largest_N1, 1)
    distances_NN *= distances_NN
    nearest_NK = nearest_columns(distances_NN, max(k1 + 1, k2))
    encoding_NN = _encode(nearest_NK, k1, k2, lambda rows, columns: distances_NN[rows, columns])
    jaccard_QG = _jaccard(encoding_NN[:num_queries], encoding_NN[num_queries:].tocsc())
    return _mix(jaccard_QG, distances_NN[:num_queries, num_queries:], lambda_)


def rerank_embeddings(
    queries_QD: NDArray[np.floating],
    gallery_GD: NDArray[np.floating],
    k1: int = 20,
    k2: int = 6,
    lambda_: float = 0.3,
) -> RowsOf:
    """Re-rank embeddings by k-reciprocal neighbours, without ever holding all N x N distances.

    At most `CHUNK` x N distances are held at a time. The memory that is needed (see `rerank_memory_bytes`)
    is printed to stderr.

    Args:
        queries_QD: float (Q, D), of any length but 0, one row or more.
        gallery_GD: float (G, D), of any length but 0, one row or more.
        k1: as for `rerank_distances`.
        k2: as for `rerank_distances`.
        lambda_: as for `rerank_distances`.

    Returns:
        A function from a slice of the queries to their re-ranked distances, float32 (C, G), for
        `evaluate_rows`. The distances are those that `rerank_distances` makes of the Euclidean distances
        between the rows at length 1.

    Raises:
        ValueError: shapes disagree, a row is zero or not finite, or k1, k2 or lambda_ is out of range.
    """
    _check_parameters(k1, k2, lambda_)
    if queries_QD.ndim != 2 or gallery_GD.ndim != 2 or queries_QD.shape[1] != gallery_GD.shape[1]:
        raise ValueError(f"embeddings are {queries_QD.shape} and {gallery_GD.shape}, not (Q, D) and (G, D)")
    (num_queries, width), num_gallery = queries_QD.shape, len(gallery_GD)
    if not num_queries or not num_gallery:
        raise ValueError(f"{num_queries} queries and {num_gallery} gallery items; one of each is needed")
    needed = rerank_memory_bytes(num_queries, num_gallery, width, k1, k2)
    size = f"{num_queries:,} x {num_gallery:,}"
    print(f"re-ranking {size}: about {needed / 2**30:.2f} GiB of memory", file=sys.stderr)
    rows_ND = np.concatenate([unit_rows(part).astype(np.float32) for part in (queries_QD, gallery_GD)])
    nearest_NK, largest_N1 = _nearest_rows(rows_ND, max(k1 + 1, k2))

    def distances_at(rows: Ints, columns: Ints) -> Floats:
        distances = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), PAIRS):
            some = slice(start, start + PAIRS)
            cosines = np.einsum("pd,pd->p", rows_ND[rows[some]], rows_ND[columns[some]])
            distances[some] = np.maximum(1 - cosines, 0) / largest_N1[rows[some], 0]
        return distances

    encoding_NN = _encode(nearest_NK, k1, k2, distances_at)
    encoding_QN, encoding_GN = encoding_NN[:num_queries], encoding_NN[num_queries:].tocsc()

    def distances_of(rows: slice) -> Floats:
        distances_CG = _half_squares(rows_ND[:num_queries][rows], rows_ND[num_queries:])
        distances_CG /= largest_N1[:num_queries][rows]
        return _mix(_jaccard(encoding_QN[rows], encoding_GN), distances_CG, lambda_)

    return distances_of


def rerank_memory_bytes(num_queries: int, num_gallery: int, width: int, k1: int = 20, k2: int = 6) -> int:
    """Estimate the bytes that `rerank_embeddings` and the evaluation of its rows add, with all threads busy.

    The sparse matrices are counted at k1 x k2 weights a row, in three copies. Few data sets have so many
    weights, so the estimate is high.

    Args:
        num_queries: Q.
        num_gallery: G.
        width: D.
        k1: as for `rerank_distances`.
        k2: as for `rerank_distances`.

    >>> rerank_memory_bytes(11_659, 82_161, 512) < 3 * 2**30
    True
    """
    num_items = num_queries + num_gallery
    embeddings = 2 * num_items * width * 4
    neighbours = num_items * max(k1 + 1, k2) * 8
    weights = 3 * num_items * min(k1 * k2, num_items) * 12
    pairs = 2 * min(PAIRS, num_items * k1) * width * 4
    chunks = NUM_THREADS * 3 * min(CHUNK, num_queries) * num_gallery * 4
    return embeddings + neighbours + weights + max(pairs, chunks)


def _half_squares(some_CD: Floats, all_ND: Floats) -> Floats:
    """Return half the squared Euclidean distances between rows of length 1: 1 - cosine, never below 0."""
    products = some_CD @ all_ND.T
    np.subtract(1, products, out=products)
    halves: Floats = np.maximum(products, 0, out=products)
    return halves


def _nearest_rows(rows_ND: Floats, num_nearest: int) -> tuple[Ints, Floats]:
    """Return the nearest rows of each row, itself among them (N, K), and its largest distance (N, 1)."""
    nearest, largest = [], []
    for start in range(0, len(rows_ND), CHUNK):
        distances = _half_squares(rows_ND[start : start + CHUNK], rows_ND)
        nearest.append(nearest_columns(distances, num_nearest))
        largest.append(distances.max(axis=1, keepdims=True))
    largest_N1 = np.concatenate(largest)
    return np.concatenate(nearest), np.where(largest_N1 > 0, largest_N1, np.float32(1))


def _mix(jaccard_CG: Floats, distances_CG: Floats, lambda_: float) -> Floats:
    """Return the final distances (equation 12)."""
    mixed: Floats = (1 - lambda_) * jaccard_CG + lambda_ * distances_CG
    return mixed


def _check_parameters(k1: int, k2: int, lambda_: float) -> None:
    if k1 < 1 or k2 < 1:
        raise ValueError(f"k1 is {k1} and k2 is {k2}; both must be 1 or more")
    if not 0 <= lambda_ <= 1:
        raise ValueError(f"lambda_ is {lambda_}; it must be from 0 to 1")


def _check_distances(qg: NDArray[np.floating], qq: NDArray[np.floating], gg: NDArray[np.floating]) -> None:
    if qg.ndim != 2 or 0 in qg.shape:
        raise ValueError(f"qg is {qg.shape}; it must be (Q, G), with one query and one gallery item or more")
    for name, matrix, size in (("qq", qq, qg.shape[0]), ("gg", gg, qg.shape[1])):
        if matrix.shape != (size, size):
            raise ValueError(f"{name} is {matrix.shape}; it must be ({size}, {size}), as qg is {qg.shape}")
    for name, matrix in (("qg", qg), ("qq", qq), ("gg", gg)):
        if not np.isfinite(matrix).all():
            raise ValueError(f"{name} holds NaN or infinity")


def nearest_columns(distances_CN: NDArray[np.floating], num_nearest: int) -> Ints:
    """Return the columns of each row's smallest values, ascending; equal values are in the order of columns.

    Args:
        distances_CN: float (C, N), without NaN.
        num_nearest: how many columns, 1 or more; above N means all N.

    Returns:
        int64 (C, K), where K is min(num_nearest, N).

    >>> nearest_columns(np.array([[0.2, 0.1, 0.1, 0.0]]), 2).tolist()
    [[3, 1]]
    """
    num_nearest = min(num_nearest, distances_CN.shape[1])
    nearest = np.empty((len(distances_CN), num_nearest), np.int64)
    for row, distances in enumerate(distances_CN):
        limit = np.partition(distances, num_nearest - 1)[num_nearest - 1]
        columns = np.flatnonzero(distances <= limit)
        nearest[row] = columns[np.argsort(distances[columns], kind="stable")][:num_nearest]
    return nearest


def _neighbours(nearest_NK: Ints, num_nearest: int) -> sparse.csr_array:
    """Return a matrix (N, N) with a one where the column is among the row's nearest."""
    columns = nearest_NK[:, :num_nearest]
    starts = np.arange(0, columns.size + 1, columns.shape[1])
    size = (len(nearest_NK), len(nearest_NK))
    return sparse.csr_array((np.ones(columns.size, np.float32), columns.ravel(), starts), shape=size)


def _reciprocal(nearest_NK: Ints, k: int) -> sparse.csr_array:
    """Return (N, N) with ones for pairs among each other's k nearest, themselves not counted (equation 2)."""
    forward = _neighbours(nearest_NK, k + 1)
    return sparse.csr_array(forward.multiply(forward.T))


def _expanded(nearest_NK: Ints, k1: int) -> sparse.coo_array:
    """Return the reciprocal sets, expanded by the k1 / 2 sets of members that overlap by 2/3 (equation 3)."""
    members, closer = _reciprocal(nearest_NK, k1), _reciprocal(nearest_NK, round(k1 / 2))
    shared = (members @ closer.T).multiply(members).tocoo()
    is_close = 3 * shared.data > 2 * closer.sum(axis=1)[shared.col]
    pairs = (shared.row[is_close], shared.col[is_close])
    accepted = sparse.csr_array((np.ones(len(pairs[0]), np.float32), pairs), shape=members.shape)
    return (members + accepted @ closer).tocoo()


def _encode(nearest_NK: Ints, k1: int, k2: int, distances_at: DistancesAt) -> sparse.csr_array:
    """Return the encoding (N, N) of each item: weights over its reciprocal set, averaged over its k2 nearest.

    The weights are those of equation 7, with rows of sum 1; the average is equation 11. An item with more
    than k1 duplicates may have an empty set, and then has a row of zeros.
    """
    members = _expanded(nearest_NK, k1)
    weights = np.exp(-distances_at(members.row, members.col))
    encoding = sparse.csr_array((weights, (members.row, members.col)), shape=members.shape)
    encoding.data /= np.repeat(encoding.sum(axis=1), np.diff(encoding.indptr))
    if k2 == 1:
        return encoding
    return _neighbours(nearest_NK, k2) @ encoding / min(k2, nearest_NK.shape[1])


def _jaccard(queries_CN: sparse.csr_array, gallery_GN: sparse.csc_array) -> Floats:
    """Return the Jaccard distances (C, G) of encodings (equation 10); only common columns are computed."""
    distances = np.empty((queries_CN.shape[0], gallery_GN.shape[0]), np.float32)
    for row in range(len(distances)):
        own = slice(queries_CN.indptr[row], queries_CN.indptr[row + 1])
        common = gallery_GN[:, queries_CN.indices[own]]
        smaller = np.minimum(common.data, np.repeat(queries_CN.data[own], np.diff(common.indptr)))
        shared = np.bincount(common.indices, smaller, minlength=len(distances[row]))
        distances[row] = 1 - shared / (2 - shared)
    return distances
