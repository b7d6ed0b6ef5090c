"""The embeddings of one model version, searchable: a cache of the `embeddings` table, exact in fp16.

The only importer of FAISS. Beside FAISS's rows there are columns (slot, identity, camera, time) in the same
order, so that a filter becomes a selector before the search and never eats into its results. FAISS lets any
number of searches run at once but no change beside them; the lock in here sees to that, and nothing outside
needs to know. FAISS neither checks shapes nor ids and pads short answers with -1; we check, and never ask for
more than there is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Condition

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

NO_TIME = np.iinfo(np.int64).min
"""The time of an item without one, in the column of times: before everything."""

GROWTH = 4
"""How much further to look each time the best items were of too few identities."""


@dataclass(frozen=True)
class Filter:
    """Which items to search: cameras in and out, and captured in [after, before).

    An item without a camera is in no camera and is never excluded by one; an item without a time is outside
    every window.
    """

    camera_ids: frozenset[str] = frozenset()
    excluded_camera_ids: frozenset[str] = frozenset()
    captured_after: datetime | None = None
    captured_before: datetime | None = None


@dataclass(frozen=True)
class Rows:
    """Items to add: row i of every field is one item. `slots` ascend; embeddings are (N, D)."""

    slots: Sequence[int]
    identity_keys: Sequence[int]
    camera_ids: Sequence[str | None]
    captured_ats: Sequence[datetime | None]
    embeddings_ND: NDArray[np.float16]  # noqa: N815 - a shape suffix


@dataclass(frozen=True)
class Hits:
    """The best items, scores descending, with everything that ties with the last one asked for."""

    slots: Ints
    identity_keys: Ints
    scores: Floats
    num_searched: int


class GalleryIndex:
    """Exact search by inner product over embeddings of one size; safe to use from many threads."""

    def __init__(self, embedding_size: int) -> None:
        self.embedding_size = embedding_size
        self._lock = _ReadersWriterLock()
        self._faiss = faiss.IndexScalarQuantizer(
            embedding_size, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        self._slots: Ints = np.empty(0, np.int64)
        self._identities: Ints = np.empty(0, np.int64)
        self._cameras: Ints = np.empty(0, np.int64)
        self._times: Ints = np.empty(0, np.int64)
        self._camera_codes: dict[str | None, int] = {None: 0}

    def __len__(self) -> int:
        return len(self._slots)

    def slots(self) -> Ints:
        """Return the slots that are in the index, ascending."""
        return self._slots

    def add(self, rows: Rows) -> None:
        """Add items whose slots are above all that were ever added.

        Raises:
            ValueError: if shapes differ, a value is not finite, or slots do not ascend.
        """
        slots = np.asarray(rows.slots, np.int64)
        embeddings_ND = self._checked(rows.embeddings_ND, len(slots))
        with self._lock.changing():
            self._check_ascending(slots)
            codes = [self._camera_codes.setdefault(c, len(self._camera_codes)) for c in rows.camera_ids]
            columns = [slots, rows.identity_keys, codes, [_microseconds(t) for t in rows.captured_ats]]
            if any(len(column) != len(slots) for column in columns):
                raise ValueError("expected as many identities, cameras and times as slots")
            self._faiss.add(embeddings_ND)
            self._slots, self._identities, self._cameras, self._times = (
                np.concatenate([old, np.asarray(new, np.int64)])
                for old, new in zip(self._columns(), columns, strict=True)
            )

    def remove(self, slots: Sequence[int] | Ints) -> int:
        """Remove these slots, as far as they are there, and return how many were."""
        with self._lock.changing():
            gone = np.isin(self._slots, np.asarray(slots, np.int64))
            if not gone.any():
                return 0
            selector, _bits = _selector(gone)
            self._faiss.remove_ids(selector)
            self._slots, self._identities, self._cameras, self._times = (c[~gone] for c in self._columns())
            return int(gone.sum())

    def search_items(self, query_D: Floats, k: int, only: Filter) -> Hits:
        """Find the k best items, and all that tie with the k-th."""
        query_1D = self._checked(query_D[None], 1)
        with self._lock.searching():
            mask = self._mask(only)
            num_searched = int(mask.sum())
            asked = k + 1
            while True:
                rows, scores = self._best(query_1D, asked, mask, num_searched)
                if len(rows) < asked or scores[-1] < scores[k - 1]:
                    break
                asked *= GROWTH
            keep = slice(0, k) if len(rows) <= k else scores >= scores[k - 1]
            return self._hits(rows[keep], scores[keep], num_searched)

    def search_identities(self, query_D: Floats, k: int, items_each: int, only: Filter) -> Hits:
        """Find the items of the k best identities: the `items_each` best of each and what ties with them.

        An identity is as good as its best item. All identities that tie with the k-th are included, and no
        others; an identity's first `items_each` hits are its best, there may be more.
        """
        query_1D = self._checked(query_D[None], 1)
        with self._lock.searching():
            mask = self._mask(only)
            num_searched = int(mask.sum())
            asked = k * items_each + 1
            while True:
                rows, scores = self._best(query_1D, asked, mask, num_searched)
                worst = _kth_identity_score(self._identities[rows], scores, k)
                if len(rows) < asked or scores[-1] < worst:
                    break
                asked *= GROWTH
            chosen = np.unique(self._identities[rows[scores >= worst]])
            rows, scores = self._best_of(chosen, items_each, query_1D, mask)
            return self._hits(rows, scores, num_searched)

    def _best_of(self, chosen: Ints, items_each: int, query_1D: Floats, mask: Mask) -> tuple[Ints, Floats]:
        """Return the best items of the chosen identities, and ties."""
        mask = mask & np.isin(self._identities, chosen)
        num_candidates = int(mask.sum())
        rows, scores = self._best(query_1D, num_candidates, mask, num_candidates)
        keep = _best_of_each(self._identities[rows], scores, items_each)
        return rows[keep], scores[keep]

    def _best(self, query_1D: Floats, k: int, mask: Mask, num_searched: int) -> tuple[Ints, Floats]:
        """Return the rows and scores of the k best rows in the mask, or of all when there are fewer."""
        k = min(k, num_searched)
        if k == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        selector, _bits = _selector(mask)
        parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        with _one_thread():
            scores_1K, rows_1K = self._faiss.search(query_1D, k, params=parameters)
        return rows_1K[0], scores_1K[0]

    def _mask(self, only: Filter) -> Mask:
        """Return which rows a filter lets through."""
        mask = np.ones(len(self._slots), np.bool_)
        if only.camera_ids:
            mask &= self._in_cameras(only.camera_ids)
        if only.excluded_camera_ids:
            mask &= ~self._in_cameras(only.excluded_camera_ids)
        if only.captured_after is not None:
            mask &= self._times >= _microseconds(only.captured_after)
        if only.captured_before is not None:
            mask &= (self._times < _microseconds(only.captured_before)) & (self._times != NO_TIME)
        return mask

    def _in_cameras(self, camera_ids: frozenset[str]) -> Mask:
        wanted = np.zeros(len(self._camera_codes), np.bool_)
        wanted[[self._camera_codes[c] for c in camera_ids if c in self._camera_codes]] = True
        return wanted[self._cameras]

    def _hits(self, rows: Ints, scores: Floats, num_searched: int) -> Hits:
        return Hits(self._slots[rows], self._identities[rows], scores, num_searched)

    def _columns(self) -> tuple[Ints, Ints, Ints, Ints]:
        return self._slots, self._identities, self._cameras, self._times

    def _checked(self, embeddings_ND: NDArray[np.float16] | Floats, num: int) -> Floats:
        if embeddings_ND.shape != (num, self.embedding_size):
            raise ValueError(f"expected ({num}, {self.embedding_size}), got {embeddings_ND.shape}")
        checked = np.ascontiguousarray(embeddings_ND, np.float32)
        if not np.isfinite(checked).all():
            raise ValueError("an embedding has a value that is not finite")
        return checked

    def _check_ascending(self, slots: Ints) -> None:
        last = self._slots[-1:]
        if (np.diff(np.concatenate([last, slots])) <= 0).any():
            raise ValueError("expected slots that ascend from the last one in the index")


def _selector(mask: Mask) -> tuple[faiss.IDSelectorBitmap, NDArray[np.uint8]]:
    """Return a selector of the marked rows, and the bits it points to, which must live as long."""
    bits = np.packbits(mask, bitorder="little")
    return faiss.IDSelectorBitmap(bits.size, faiss.swig_ptr(bits)), bits


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep FAISS from starting threads for one query, which it cannot share out anyway.

    Waiting for them cost 12 ms of 15 on two busy cores (20,000 x 1280). The number is put back because torch
    may share it.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _kth_identity_score(identities: Ints, scores: Floats, k: int) -> float:
    """Return the best score of the k-th identity to appear, or minus infinity when there are fewer.

    >>> _kth_identity_score(np.array([7, 7, 3]), np.array([0.9, 0.8, 0.5], np.float32), 2)
    0.5
    """
    _, firsts = np.unique(identities, return_index=True)
    return float(scores[np.sort(firsts)[k - 1]]) if len(firsts) >= k else float("-inf")


def _best_of_each(identities: Ints, scores: Floats, num: int) -> Mask:
    """Mark the `num` first rows of each identity and those that tie with the last of them; scores descend.

    >>> _best_of_each(np.array([1, 1, 2, 1]), np.array([0.9, 0.8, 0.7, 0.6], np.float32), 2).tolist()
    [True, True, True, False]
    """
    order = np.argsort(identities, kind="stable")
    _, starts, sizes = np.unique(identities[order], return_index=True, return_counts=True)
    lasts = order[starts + np.minimum(sizes, num) - 1]
    threshold = np.empty(len(scores), np.float32)
    threshold[order] = np.repeat(scores[lasts], sizes)
    return np.asarray(scores >= threshold)


def _microseconds(time: datetime | None) -> int:
    """Return the microseconds since 1970.

    >>> _microseconds(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    1000000
    """
    if time is None:
        return NO_TIME
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


class _ReadersWriterLock:
    """Many searches or one change; a waiting change goes first, so that searches cannot starve it."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._num_searching = 0
        self._num_waiting = 0
        self._is_changing = False

    @contextmanager
    def searching(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._is_changing and not self._num_waiting)
            self._num_searching += 1
        try:
            yield
        finally:
            with self._condition:
                self._num_searching -= 1
                self._condition.notify_all()

    @contextmanager
    def changing(self) -> Iterator[None]:
        with self._condition:
            self._num_waiting += 1
            self._condition.wait_for(lambda: not self._is_changing and not self._num_searching)
            self._num_waiting -= 1
            self._is_changing = True
        try:
            yield
        finally:
            with self._condition:
                self._is_changing = False
                self._condition.notify_all()
