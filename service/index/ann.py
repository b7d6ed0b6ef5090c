"""Approximate nearest neighbours: FAISS indexes that propose rows, whose scores are then computed exactly.

To add a kind of index, name it in `AnnKind`, write a function that trains an empty FAISS index and one that
returns its search parameters, and enter both in `_METHODS`. Then let the setting `REID_INDEX` accept the
name, and give the kind a minimum recall in tests/support/indexed_items.py, which runs the tests of all kinds.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt
from threading import Event
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from service.index.columns import Ints, Mask
from service.index.vectors import CHUNK, Floats, Halves, faiss_threads, row_selector, search_faiss

AnnKind = Literal["hnsw", "ivf"]

BUILD_THREADS = max(1, (os.cpu_count() or 1) // 2)
"""Half of the cores, because searches need the others while an ANN index is built."""

CANDIDATES_PER_RESULT = 4
"""An ANN search for k rows proposes 4 k candidates, all of which are scored exactly."""

MIN_CANDIDATES = 500
"""Fewest candidates of an ANN search. Rows far from the query are hard to rank by 1 bit a dimension."""

IVF_PROBED_SHARE = 0.4
"""Share of the IVF lists that a search scans.

Recall@10 of 100,000 items was 0.968 with 1/8 of the lists, 0.984 with 1/4 and 0.999 with 1/2.
"""

IVF_TRAINING_ROWS_PER_LIST = 64
"""How many rows, drawn at random, train each list of an IVF index on average."""

HNSW_LINKS = 32
HNSW_BUILD_DEPTH = 40
HNSW_SEARCH_DEPTH = 800

HNSW_TRAINING_ROWS = 20_000
"""About how many rows, evenly spaced, train the 8-bit codes of an HNSW index."""


@dataclass(frozen=True)
class AnnIndex:
    """ANN index over the first `num_rows` rows: proposes most of the true top k without scoring every row.

    `num_trained` is the number of rows that existed when the ANN index was trained.
    """

    kind: AnnKind
    num_rows: int
    num_trained: int
    faiss_index: Any

    @classmethod
    def build(cls, kind: AnnKind, rows_ND: Halves, stop: Event) -> "AnnIndex":
        """Train an ANN index on `rows_ND`, (N, D), and add the rows.

        If `stop` is set during the build, the ANN index covers only the rows added until then.
        """
        with faiss_threads(BUILD_THREADS):
            index = _METHODS[kind].train(rows_ND)
        return cls(kind, 0, len(rows_ND), index)._with_rows(rows_ND, stop)

    def extended(self, rows_ND: Halves, stop: Event) -> "AnnIndex":
        """Return a copy that also covers the rows after `num_rows`, without new training.

        `rows_ND` is (N, D) and holds all rows, those already covered included.
        """
        copy = AnnIndex(self.kind, self.num_rows, self.num_trained, faiss.clone_index(self.faiss_index))
        return copy._with_rows(rows_ND, stop)

    def candidates(self, query_1D: Floats, k: int, mask: Mask) -> Ints:
        """Return rows that include most of the k best marked rows, unordered.

        Args:
            query_1D: (1, D) float32.
            k: how many rows the caller wants; about four times as many candidates are returned.
            mask: (N,), true for the rows to search; rows from `num_rows` on are ignored.
        """
        num = min(max(CANDIDATES_PER_RESULT * k, MIN_CANDIDATES), self.num_rows)
        mask = mask[: self.num_rows]
        selector, _bits = (None, None) if mask.all() else row_selector(mask)
        parameters = _METHODS[self.kind].search_parameters(self.faiss_index, num, selector)
        rows, _ = search_faiss(self.faiss_index, query_1D, num, parameters)
        return rows[rows >= 0]

    def to_bytes(self) -> NDArray[np.uint8]:
        """Serialize the FAISS index."""
        serialized: NDArray[np.uint8] = faiss.serialize_index(self.faiss_index)
        return serialized

    @classmethod
    def from_bytes(cls, kind: AnnKind, num_trained: int, serialized: NDArray[np.uint8]) -> "AnnIndex":
        """Read what `to_bytes` returned.

        Raises:
            ValueError: FAISS cannot read the bytes.
        """
        try:
            index = faiss.deserialize_index(serialized)
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot read the ANN index: {error}") from error
        return cls(kind, index.ntotal, num_trained, index)

    def _with_rows(self, rows_ND: Halves, stop: Event) -> "AnnIndex":
        with faiss_threads(BUILD_THREADS):
            for start in range(self.num_rows, len(rows_ND), CHUNK):
                if stop.is_set():
                    break
                self.faiss_index.add(rows_ND[start : start + CHUNK].astype(np.float32))
        return AnnIndex(self.kind, self.faiss_index.ntotal, self.num_trained, self.faiss_index)


@dataclass(frozen=True)
class _Method:
    """How FAISS trains and searches one kind of ANN index."""

    train: Callable[[Halves], Any]
    """Rows (N, D) -> a trained FAISS index without rows."""
    search_parameters: Callable[[Any, int, Any], Any]
    """FAISS index, number of candidates, row selector or None -> FAISS search parameters."""


def _train_ivf(rows_ND: Halves) -> Any:
    """Train an inverted file of sqrt(N) lists with RaBitQ codes, 1 bit a dimension."""
    num, size = rows_ND.shape
    num_lists = max(1, round(sqrt(num)))
    chosen = np.random.default_rng(0).permutation(num)[: IVF_TRAINING_ROWS_PER_LIST * num_lists]
    sample_ND = rows_ND[np.sort(chosen)].astype(np.float32)
    index: Any = faiss.index_factory(size, f"IVF{num_lists},RaBitQfs", faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.niter, index.cp.seed = True, 8, 1
    index.cp.min_points_per_centroid = 1
    index.train(sample_ND)
    return index


def _ivf_parameters(index: Any, num_candidates: int, selector: Any) -> Any:  # noqa: ARG001 - one signature
    num_probed = ceil(IVF_PROBED_SHARE * index.nlist)
    return faiss.IVFSearchParameters(sel=selector, nprobe=num_probed)  # type: ignore[call-arg]


def _train_hnsw(rows_ND: Halves) -> Any:
    """Train the codes of an HNSW graph, 8 bits a dimension; the graph has no nodes yet."""
    index: Any = faiss.index_factory(rows_ND.shape[1], f"HNSW{HNSW_LINKS}_SQ8", faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = HNSW_BUILD_DEPTH
    index.train(rows_ND[:: max(1, len(rows_ND) // HNSW_TRAINING_ROWS)].astype(np.float32))
    return index


def _hnsw_parameters(index: Any, num_candidates: int, selector: Any) -> Any:  # noqa: ARG001 - one signature
    depth = max(HNSW_SEARCH_DEPTH, num_candidates)
    return faiss.SearchParametersHNSW(sel=selector, efSearch=depth)  # type: ignore[attr-defined]


_METHODS: dict[AnnKind, _Method] = {
    "hnsw": _Method(_train_hnsw, _hnsw_parameters),
    "ivf": _Method(_train_ivf, _ivf_parameters),
}
