"""Which rows are nearest to a query: the only importer of FAISS.

FAISS neither checks shapes nor ids and pads short answers with -1; `GalleryIndex` checks, and here never more
is asked for than there is. Nothing here changes once it is made, so any number of threads may search.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, sqrt
from threading import Event
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from service.index.columns import Ints, Mask

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Structure = Literal["hnsw", "ivf"]

CHUNK = 4096
"""Rows that are gathered, or turned into float32, at a time."""

CACHE_LINE = 64

BUILDING_THREADS = max(1, (os.cpu_count() or 1) // 2)
"""Structures are built while searches go on."""

ROWS_PER_CENTROID = 64
"""To train on."""

PROBED = 0.4
"""The share of lists to look into. An eighth gave recall@10 0.968, a quarter 0.984, a half 0.999, of 100k."""

HNSW_LINKS = 32
HNSW_BUILD_DEPTH = 40
HNSW_DEPTH = 800

REFINED = 4
"""How many times more candidates than are asked for are scored exactly..."""

MIN_REFINED = 500
"""... and how many at least, for what is far from the query and hard to tell apart by one bit a dimension."""


class Embeddings:
    """Rows in fp16, in memory that FAISS reads where it is; a row never changes once it is there.

    FAISS has no Python constructor for an index over memory of another's, but reads one from memory without
    copying: so its header stands right before the rows.
    """

    def __init__(self, embedding_size: int, capacity: int = 0) -> None:
        header = _header(embedding_size, capacity)
        num_bytes = capacity * embedding_size * 2
        memory = np.empty(num_bytes + len(header) + CACHE_LINE, np.uint8)
        start = len(header) + -(memory.ctypes.data + len(header)) % CACHE_LINE
        memory[start - len(header) : start] = header
        self._file = memory[start - len(header) : start + num_bytes]
        self._memory_ND: Halves = memory[start : start + num_bytes].view("<f2").reshape(-1, embedding_size)
        self._set_end(0)

    def __len__(self) -> int:
        return len(self.rows_ND)

    @property
    def size(self) -> int:
        """Return how long an embedding is."""
        return int(self._memory_ND.shape[1])

    def appended(self, new_ND: Halves) -> "Embeddings":
        """Return the embeddings with these behind; where there is room, in the memory behind the old end.

        Only the newest embeddings may be added to, or two would write to the same rows.
        """
        num, end = len(self), len(self) + len(new_ND)
        longer = Embeddings.__new__(Embeddings)
        if end > len(self._memory_ND):
            longer.__init__(self.size, end + end // 2)  # type: ignore[misc]
            longer._memory_ND[:num] = self.rows_ND
        else:
            longer._file, longer._memory_ND = self._file, self._memory_ND
        longer._memory_ND[num:end] = new_ND
        longer._set_end(end)
        return longer

    def best(self, query_1D: Floats, k: int, mask: Mask) -> tuple[Ints, Floats]:
        """Return the k best of the marked rows, or all if they are fewer, best first, and their scores."""
        num = int(np.count_nonzero(mask))
        if num <= len(self) // 2:
            return self.best_of(np.flatnonzero(mask), query_1D, k)
        selector, _bits = _selector(mask)
        parameters = None if num == len(self) else faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        return _search(self._faiss, query_1D, min(k, num), parameters)

    def best_of(self, rows: Ints, query_1D: Floats, k: int) -> tuple[Ints, Floats]:
        """Return the k best of these rows, or all if they are fewer, best first, and their scores.

        They are gathered first: the fewer they are, the faster.
        """
        gathered = Embeddings(self.size, min(CHUNK, len(rows)))
        best_rows, best_scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            np.take(self.rows_ND, chunk, axis=0, out=gathered._memory_ND[: len(chunk)], mode="clip")
            gathered._faiss.ntotal = len(chunk)
            places, scores = _search(gathered._faiss, query_1D, min(k, len(chunk)), None)
            best_rows.append(chunk[places])
            best_scores.append(scores)
        found, scores = np.concatenate(best_rows), np.concatenate(best_scores)
        order = np.argsort(-scores, kind="stable")[:k]
        return found[order], scores[order]

    def _set_end(self, end: int) -> None:
        self.rows_ND = self._memory_ND[:end]
        self._faiss = faiss.read_index(_reader(self._file))
        self._faiss.ntotal = end


@dataclass(frozen=True)
class Approximate:
    """A structure over the first `num_rows` rows that finds most of the best ones without a look at all."""

    kind: Structure
    num_rows: int
    num_trained: int
    faiss_index: Any

    @classmethod
    def build(cls, kind: Structure, rows_ND: Halves, stop: Event) -> "Approximate":
        """Train on these rows and take them in; ends early, with fewer rows, when told to stop."""
        with _threads(BUILDING_THREADS):
            index = _train_ivf(rows_ND) if kind == "ivf" else _empty_hnsw(rows_ND)
        return cls(kind, 0, len(rows_ND), index)._with(rows_ND, stop)

    def extended(self, rows_ND: Halves, stop: Event) -> "Approximate":
        """Return another over all of these rows, the first of which are those that this one knows."""
        copy = Approximate(self.kind, self.num_rows, self.num_trained, faiss.clone_index(self.faiss_index))
        return copy._with(rows_ND, stop)

    def candidates(self, query_1D: Floats, k: int, mask: Mask) -> Ints:
        """Return rows among which most of the k best marked ones are, in no order."""
        num = min(max(REFINED * k, MIN_REFINED), self.num_rows)
        mask = mask[: self.num_rows]
        selector, _bits = (None, None) if mask.all() else _selector(mask)
        if self.kind == "ivf":
            num_probed = ceil(PROBED * self.faiss_index.nlist)
            parameters = faiss.IVFSearchParameters(sel=selector, nprobe=num_probed)  # type: ignore[call-arg]
        else:
            parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=max(HNSW_DEPTH, num))  # type: ignore[attr-defined]
        rows, _ = _search(self.faiss_index, query_1D, num, parameters)
        return rows[rows >= 0]

    def to_bytes(self) -> NDArray[np.uint8]:
        """Return the structure as bytes."""
        serialized: NDArray[np.uint8] = faiss.serialize_index(self.faiss_index)
        return serialized

    @classmethod
    def from_bytes(cls, kind: Structure, num_trained: int, serialized: NDArray[np.uint8]) -> "Approximate":
        """Read a structure.

        Raises:
            ValueError: if these are not its bytes.
        """
        try:
            index = faiss.deserialize_index(serialized)
        except RuntimeError as error:
            raise ValueError(f"not a structure of FAISS: {error}") from error
        return cls(kind, index.ntotal, num_trained, index)

    def _with(self, rows_ND: Halves, stop: Event) -> "Approximate":
        with _threads(BUILDING_THREADS):
            for start in range(self.num_rows, len(rows_ND), CHUNK):
                if stop.is_set():
                    break
                self.faiss_index.add(rows_ND[start : start + CHUNK].astype(np.float32))
        return Approximate(self.kind, self.faiss_index.ntotal, self.num_trained, self.faiss_index)


def _train_ivf(rows_ND: Halves) -> Any:
    """Return an inverted file of sqrt(N) lists, with RaBitQ's bit a dimension; trained, and empty."""
    num, size = rows_ND.shape
    num_lists = max(1, round(sqrt(num)))
    chosen = np.random.default_rng(0).permutation(num)[: ROWS_PER_CENTROID * num_lists]
    sample_ND = rows_ND[np.sort(chosen)].astype(np.float32)
    index: Any = faiss.index_factory(size, f"IVF{num_lists},RaBitQfs", faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.niter, index.cp.seed = True, 8, 1
    index.cp.min_points_per_centroid = 1
    index.train(sample_ND)
    return index


def _empty_hnsw(rows_ND: Halves) -> Any:
    """Return a graph without nodes, over codes of 8 bits a dimension."""
    index: Any = faiss.index_factory(rows_ND.shape[1], f"HNSW{HNSW_LINKS}_SQ8", faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = HNSW_BUILD_DEPTH
    index.train(rows_ND[:: max(1, len(rows_ND) // 20_000)].astype(np.float32))
    return index


def _header(embedding_size: int, capacity: int) -> NDArray[np.uint8]:
    """Return what FAISS writes before the rows of an index that is full."""
    index = faiss.IndexScalarQuantizer(
        embedding_size, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.ntotal = capacity
    header: NDArray[np.uint8] = faiss.serialize_index(index)
    header[-8:] = np.array([capacity * embedding_size * 2], "<u8").view(np.uint8)
    return header


def _reader(file: NDArray[np.uint8]) -> Any:
    """Return what lets FAISS use memory without copying it."""
    return faiss.ZeroCopyIOReader(faiss.swig_ptr(file), file.size)  # type: ignore[attr-defined]


def _search(index: Any, query_1D: Floats, k: int, parameters: Any) -> tuple[Ints, Floats]:
    if k == 0:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    with _threads(1):  # waiting for others, who can do nothing, took 12 ms of 15 on two busy cores
        scores_1K, rows_1K = index.search(query_1D, k, params=parameters)
    return rows_1K[0], scores_1K[0]


def _selector(mask: Mask) -> tuple[faiss.IDSelectorBitmap, NDArray[np.uint8]]:
    """Return a selector of the marked rows, and the bits it points to, which must live as long."""
    bits = np.packbits(mask, bitorder="little")
    return faiss.IDSelectorBitmap(bits.size, faiss.swig_ptr(bits)), bits


@contextmanager
def _threads(num: int) -> Iterator[None]:
    """Let FAISS use so many threads; the number is put back because torch may share it."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(num)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
