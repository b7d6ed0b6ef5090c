"""Embeddings in fp16, and exact search over them with FAISS.

FAISS checks neither shapes nor ids, and fills an answer that is too short with id -1. `GalleryIndex` checks
shapes and ids, and this module never asks FAISS for more rows than there are.

Shape suffixes: N rows, D dimensions of an embedding, K results.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from service.index.columns import Ints, Mask

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]

CHUNK = 4096
"""Rows copied, or converted to float32, at a time."""

CACHE_LINE_BYTES = 64


class _Buffer:
    """Memory for `capacity` rows, laid out as the FAISS file of a full index: the header, then the rows.

    FAISS's Python package has no index over memory that numpy owns, but it can read an index file in memory
    without copying the rows. So the header stands directly before the rows, and FAISS and numpy share them.
    """

    def __init__(self, embedding_size: int, capacity: int) -> None:
        header = _full_header(embedding_size, capacity)
        num_bytes = capacity * embedding_size * 2
        memory = np.empty(num_bytes + len(header) + CACHE_LINE_BYTES, np.uint8)
        start = len(header) + -(memory.ctypes.data + len(header)) % CACHE_LINE_BYTES
        memory[start - len(header) : start] = header
        self._file = memory[start - len(header) : start + num_bytes]
        self.rows_ND: Halves = memory[start : start + num_bytes].view("<f2").reshape(-1, embedding_size)

    def faiss_index(self, num_rows: int) -> Any:
        """Return a FAISS index over the first `num_rows` rows; the buffer must outlive the FAISS index."""
        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(self._file), self._file.size)  # type: ignore[attr-defined]
        index = faiss.read_index(reader)
        index.ntotal = num_rows
        return index


class Embeddings:
    """The embeddings of an index, immutable: `rows_ND` is (N, D), float16.

    `appended` returns a longer object that shares the memory of this one.
    """

    def __init__(self, buffer: _Buffer, num_rows: int) -> None:
        self._buffer = buffer
        self._faiss_index = buffer.faiss_index(num_rows)
        self.rows_ND = buffer.rows_ND[:num_rows]

    @classmethod
    def empty(cls, embedding_size: int, capacity: int = 0) -> "Embeddings":
        """Return an object without rows, with memory reserved for `capacity` rows."""
        return cls(_Buffer(embedding_size, capacity), 0)

    def __len__(self) -> int:
        return len(self.rows_ND)

    @property
    def size(self) -> int:
        """Return the number of dimensions of an embedding, D."""
        return int(self._buffer.rows_ND.shape[1])

    def appended(self, new_ND: Halves) -> "Embeddings":
        """Return the embeddings followed by `new_ND`, in the same memory if the new rows fit.

        Call this only on the newest object: two appends to one object would write to the same memory.
        """
        num, end = len(self), len(self) + len(new_ND)
        buffer = self._buffer
        if end > len(buffer.rows_ND):
            buffer = _Buffer(self.size, end + end // 2)
            buffer.rows_ND[:num] = self.rows_ND
        buffer.rows_ND[num:end] = new_ND
        return Embeddings(buffer, end)

    def kept(self, rows: Ints) -> "Embeddings":
        """Return a copy that has only these rows, with memory reserved for a quarter more."""
        copy = Embeddings.empty(self.size, len(rows) + len(rows) // 4)
        for start in range(0, len(rows), CHUNK):
            copy = copy.appended(self.rows_ND[rows[start : start + CHUNK]])
        return copy

    def topk(self, query_1D: Floats, k: int, mask: Mask) -> tuple[Ints, Floats]:
        """Search the marked rows exactly.

        Args:
            query_1D: (1, D) float32.
            k: how many rows to return; all marked rows if there are fewer.
            mask: (N,), true for the rows to search.

        Returns:
            The rows and their scores, (K,) each, best first. A score is the inner product with the query.
        """
        num = int(np.count_nonzero(mask))
        if num <= len(self) // 2:
            return self.topk_among(np.flatnonzero(mask), query_1D, k)
        selector, _bits = row_selector(mask)
        parameters = None if num == len(self) else faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        return search_faiss(self._faiss_index, query_1D, min(k, num), parameters)

    def topk_among(self, rows: Ints, query_1D: Floats, k: int) -> tuple[Ints, Floats]:
        """Search these rows exactly, as `topk` does; faster than `topk` if the rows are few.

        The rows are copied into a small buffer first, because FAISS then reads no other row.
        """
        gathered = _Buffer(self.size, min(CHUNK, len(rows)))
        index = gathered.faiss_index(0)
        best_rows, best_scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            np.take(self.rows_ND, chunk, axis=0, out=gathered.rows_ND[: len(chunk)], mode="clip")
            index.ntotal = len(chunk)
            positions, scores = search_faiss(index, query_1D, min(k, len(chunk)), None)
            best_rows.append(chunk[positions])
            best_scores.append(scores)
        found, scores = np.concatenate(best_rows), np.concatenate(best_scores)
        order = np.argsort(-scores, kind="stable")[:k]
        return found[order], scores[order]


def search_faiss(index: Any, query_1D: Floats, k: int, parameters: Any) -> tuple[Ints, Floats]:
    """Search a FAISS index on one thread; return rows and scores, (K,) each, best first.

    With two busy cores, the threads of one search spent 12 of 15 ms waiting for each other.
    """
    if k == 0:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    with faiss_threads(1):
        scores_1K, rows_1K = index.search(query_1D, k, params=parameters)
    return rows_1K[0], scores_1K[0]


def row_selector(mask: Mask) -> tuple[faiss.IDSelectorBitmap, NDArray[np.uint8]]:
    """Return a FAISS selector of the marked rows, and its bits.

    Keep both until the search has ended, because the selector points to the bits without owning them.
    """
    bits = np.packbits(mask, bitorder="little")
    return faiss.IDSelectorBitmap(bits.size, faiss.swig_ptr(bits)), bits


@contextmanager
def faiss_threads(num: int) -> Iterator[None]:
    """Let FAISS use `num` threads, then restore the former number, because torch may share the setting."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(num)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _full_header(embedding_size: int, capacity: int) -> NDArray[np.uint8]:
    """Return the bytes that FAISS writes before the rows of an index of `capacity` rows."""
    index = faiss.IndexScalarQuantizer(
        embedding_size, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.ntotal = capacity
    header: NDArray[np.uint8] = faiss.serialize_index(index)
    header[-8:] = np.array([capacity * embedding_size * 2], "<u8").view(np.uint8)
    return header
