"""The embeddings of one model version, searchable: a cache of the `embeddings` table.

A search takes the current `State` once and works with it to its end, so it never waits and never sees half a
change. A change makes another state, which shares nearly everything with the one before, and replaces that
one reference; changes exclude one another. Rows of removed items stay, marked dead, until a fifth of all are;
then a thread makes a state without them. The same thread builds the approximate structures. Rows that came
after a structure was built are searched exactly, and so are the rows of a filter that leaves few.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.index import file as index_file
from service.index.columns import Columns, Grouping, Ints, changed, times
from service.index.filters import Filter, Sighting, passing
from service.index.state import MIN_ASKED, Hits, State
from service.index.vectors import Approximate, Embeddings, Floats, Structure

__all__ = ["Filter", "GalleryIndex", "Hits", "IndexKind", "Rows", "Sighting"]

IndexKind = Literal["auto", "exact", "hnsw", "ivf"]

AUTO_STRUCTURE: Structure = "ivf"
"""What `auto` takes when exact search takes too long: tests/benchmarks/index.py compares them."""

TOO_LONG_S = 0.020
"""An exact search that takes longer makes `auto` build a structure."""

MIN_MEASURED = 50_000
"""From this many rows on, `auto` measures how long an exact search takes."""

MIN_STRUCTURE = 10_000
"""Fewer rows are always searched exactly."""

MAX_UNKNOWN = 0.05
"""A structure that does not know more than this share of the rows is extended..."""

MAX_GROWTH = 4
"""... and trained again when there are so many times more than it was trained on."""

MAX_DEAD = 0.20
MIN_DEAD = 1_000


@dataclass(frozen=True)
class Rows:
    """Items to add: row i of every field is one item. `slots` ascend; embeddings are (N, D)."""

    slots: Sequence[int]
    identity_keys: Sequence[int]
    camera_ids: Sequence[str | None]
    captured_ats: Sequence[datetime | None]
    track_ids: Sequence[str | None]
    embeddings_ND: NDArray[np.float16]  # noqa: N815 - a shape suffix


class GalleryIndex:
    """Search by inner product over embeddings of one size; safe to use from many threads.

    The answers of kind "exact" are exact; the others trade a little of that for speed with many items.
    """

    def __init__(
        self, embedding_size: int, kind: IndexKind = "exact", too_long_s: float = TOO_LONG_S
    ) -> None:
        self.embedding_size = embedding_size
        self.kind = kind
        self.too_long_s = too_long_s
        self._changing = Lock()
        self._state = State(Columns.empty(), Embeddings(embedding_size), 0, None)
        self._closed = Event()
        self._rebuilding: Thread | None = None
        self._num_measured = 0

    def __len__(self) -> int:
        state = self._state
        return len(state.columns) - state.num_dead

    def slots(self) -> Ints:
        """Return the slots that are in the index, ascending."""
        columns = self._state.columns
        return columns.slots[columns.is_alive]

    def embeddings(self, slots: Sequence[int] | Ints) -> NDArray[np.float16]:
        """Return the embeddings of these slots, (N, D).

        Raises:
            ValueError: if one of them is not in the index.
        """
        state = self._state
        rows, is_there = state.columns.rows_of(slots)
        if not is_there.all():
            raise ValueError(f"slots that are not in the index: {np.asarray(slots)[~is_there][:5].tolist()}")
        return state.embeddings.rows_ND[rows]

    def add(self, rows: Rows) -> None:
        """Add items whose slots are above all that are in the index.

        Raises:
            ValueError: if shapes differ, a value is not finite, or slots do not ascend.
        """
        slots = np.asarray(rows.slots, np.int64)
        self._checked(rows.embeddings_ND, len(slots))
        properties = (rows.identity_keys, rows.camera_ids, rows.captured_ats, rows.track_ids)
        if any(len(values) != len(slots) for values in properties):
            raise ValueError("expected as many identities, cameras, times and tracks as slots")
        with self._changing:
            state = self._state
            if (np.diff(np.concatenate([state.columns.slots[-1:], slots])) <= 0).any():
                raise ValueError("expected slots that ascend from the last one in the index")
            columns = state.columns.appended(slots, *properties)
            embeddings = state.embeddings.appended(rows.embeddings_ND)
            self._replace(replace(state, columns=columns, embeddings=embeddings))

    def remove(self, slots: Sequence[int] | Ints) -> int:
        """Remove these slots, as far as they are there, and return how many were."""
        with self._changing:
            state = self._state
            rows, is_there = state.columns.rows_of(slots)
            rows = np.unique(rows[is_there])
            if len(rows):
                columns = replace(state.columns, is_alive=changed(state.columns.is_alive, rows, False))
                self._replace(replace(state, columns=columns, num_dead=state.num_dead + len(rows)))
            return len(rows)

    def forget(self, slots: Sequence[int] | Ints) -> None:
        """Remove these slots, and keep nothing in memory of all that were ever removed, when this returns.

        No row, no name of a camera or track, and no structure, which approximates embeddings, is left, but
        for searches that run. Changes wait meanwhile; another structure is built in the background.
        """
        with self._changing:
            state = self._state
            gone, is_there = state.columns.rows_of(slots)
            is_alive = changed(state.columns.is_alive, gone[is_there], False)
            rows = np.flatnonzero(is_alive)
            if len(rows) < len(is_alive):
                columns, embeddings = state.columns.kept(rows), self._copied(state, rows)
                self._replace(State(columns, embeddings, 0, None, state.numbering + 1))

    def update(
        self,
        slots: Sequence[int],
        identity_keys: Sequence[int],
        camera_ids: Sequence[str | None],
        captured_ats: Sequence[datetime | None],
        track_ids: Sequence[str | None],
    ) -> None:
        """Correct what is known of these items; slots that are not there are ignored.

        Raises:
            ValueError: if there are not as many of each.
        """
        properties = (identity_keys, camera_ids, captured_ats, track_ids)
        if any(len(values) != len(slots) for values in properties):
            raise ValueError("expected as many identities, cameras, times and tracks as slots")
        with self._changing:
            columns = self._state.columns
            rows, is_there = columns.rows_of(slots)
            if not is_there.any():
                return
            known, rows = np.flatnonzero(is_there).tolist(), rows[is_there]
            columns = replace(
                columns,
                identities=columns.identities.changed(rows, [identity_keys[i] for i in known]),
                cameras=columns.cameras.changed(rows, [camera_ids[i] for i in known]),
                times=changed(columns.times, rows, times([captured_ats[i] for i in known])),
                tracks=columns.tracks.changed(rows, [track_ids[i] for i in known]),
            )
            self._replace(replace(self._state, columns=columns))

    def search_items(self, query_D: Floats, k: int, only: Filter) -> Hits:
        """Find the k best items, and all that tie with the k-th."""
        query_1D = self._checked(query_D[None], 1)
        state = self._state
        return state.best_items(query_1D, k, passing(state.columns, only))

    def search_groups(
        self, query_D: Floats, k: int, items_each: int, only: Filter, by: Grouping = "identity"
    ) -> Hits:
        """Find the items of the k best groups: the `items_each` best of each and what ties with them.

        A group is as good as its best item. All groups that tie with the k-th are included, and no others; a
        group's first `items_each` hits are its best, there may be more. Items without a track are groups of
        their own; those without a camera are one group.
        """
        query_1D = self._checked(query_D[None], 1)
        state = self._state
        mask = passing(state.columns, only)
        return state.best_groups(query_1D, k, items_each, mask, by)

    def living(self, only: Filter) -> tuple[Columns, Ints, NDArray[np.float16]]:
        """Return the columns, the rows that a filter lets through, and all embeddings (N, D), of one time."""
        state = self._state
        return state.columns, np.flatnonzero(passing(state.columns, only)), state.embeddings.rows_ND

    def write(self, path: Path) -> None:
        """Write everything to one file, as it is now; searches and changes go on."""
        state = self._state
        index_file.write(path, state.columns, state.embeddings, state.structure)

    @classmethod
    def read(cls, path: Path, kind: IndexKind = "exact") -> "GalleryIndex":
        """Read what `write` has written; a structure of another kind is left out.

        Raises:
            ValueError: if the file is torn or no index.
        """
        columns, embeddings, structure = index_file.read(path)
        index = cls(embeddings.size, kind)
        if structure is not None and (kind == "exact" or structure.kind != index._structure_kind()):
            structure = None
        with index._changing:
            num_dead = len(columns) - int(np.count_nonzero(columns.is_alive))
            index._replace(State(columns, embeddings, num_dead, structure))
        return index

    def settle(self) -> None:
        """Wait until nothing is left to be done in the background."""
        while (thread := self._rebuilding) is not None:
            thread.join()

    def close(self) -> None:
        """Stop what is done in the background and wait until it has; searches and changes still work."""
        self._closed.set()
        self.settle()

    def _replace(self, state: State) -> None:
        """Let searches that begin from now on see this state; under the lock."""
        self._state = state
        if self._rebuilding is None and not self._closed.is_set() and self._is_due(state):
            thread = Thread(target=self._rebuild, name="rebuild-index")
            thread.start()  # it begins by waiting for the lock that we hold
            self._rebuilding = thread

    def _rebuild(self) -> None:
        """Do what is due until nothing is; runs in a thread of its own."""
        try:
            while True:
                with self._changing:
                    state = self._state
                    if self._closed.is_set() or not self._is_due(state):
                        self._rebuilding = None
                        return
                if _is_due_for_compaction(state):
                    self._compact(state)
                elif self.kind == "auto" and state.structure is None and not self._is_slow(state):
                    self._num_measured = len(state.columns)
                else:
                    self._structure(state)
        except BaseException:
            self._rebuilding = None  # the next change tries again
            raise

    def _is_due(self, state: State) -> bool:
        num = len(state.columns)
        if _is_due_for_compaction(state):
            return True
        if self.kind == "exact" or num < MIN_STRUCTURE:
            return False
        if state.structure is None:
            return self.kind != "auto" or num > max(MIN_MEASURED, 1.1 * self._num_measured)
        return num - state.structure.num_rows > MAX_UNKNOWN * num

    def _is_slow(self, state: State) -> bool:
        """Measure an exact search."""
        query_1D = state.embeddings.rows_ND[:1].astype(np.float32)
        everything = np.ones(len(state.columns), np.bool_)
        seconds = []
        for _ in range(5):
            started_s = time.perf_counter()
            state.embeddings.best(query_1D, MIN_ASKED, everything)
            seconds.append(time.perf_counter() - started_s)
        return float(np.median(seconds)) > self.too_long_s

    def _structure(self, state: State) -> None:
        """Build or extend the structure; rows keep their numbers, so it fits whatever has changed since."""
        rows_ND, old = state.embeddings.rows_ND, state.structure
        if old is None or len(rows_ND) > MAX_GROWTH * old.num_trained:
            structure = Approximate.build(self._structure_kind(), rows_ND, self._closed)
        else:
            structure = old.extended(rows_ND, self._closed)
        with self._changing:
            if self._state.numbering == state.numbering:
                self._state = replace(self._state, structure=structure)

    def _compact(self, state: State) -> None:
        """Leave dead rows out.

        Only this and `forget` give rows other numbers. Embeddings of rows never change, so they are copied
        while changes go on; the columns, and rows that have come meanwhile, are taken from the newest state.
        """
        rows = np.flatnonzero(state.columns.is_alive)
        embeddings = self._copied(state, rows)
        structure = None
        if state.structure is not None and len(rows) >= MIN_STRUCTURE:
            structure = Approximate.build(self._structure_kind(), embeddings.rows_ND, self._closed)
        with self._changing:
            now = self._state
            if now.numbering != state.numbering:
                return
            new = np.arange(len(state.columns), len(now.columns))
            columns = now.columns.kept(np.concatenate([rows, new]))
            embeddings = embeddings.appended(now.embeddings.rows_ND[new])
            num_dead = len(columns) - int(np.count_nonzero(columns.is_alive))
            self._state = State(columns, embeddings, num_dead, structure, now.numbering + 1)

    def _copied(self, state: State, rows: Ints) -> Embeddings:
        """Return the embeddings of these rows alone, in memory of their own."""
        embeddings = Embeddings(self.embedding_size, len(rows) + len(rows) // 4)
        for chunk in np.array_split(rows, max(1, len(rows) // 4096)):
            embeddings = embeddings.appended(state.embeddings.rows_ND[chunk])
        return embeddings

    def _structure_kind(self) -> Structure:
        return self.kind if self.kind in ("hnsw", "ivf") else AUTO_STRUCTURE

    def _checked(self, embeddings_ND: NDArray[np.float16] | Floats, num: int) -> Floats:
        if embeddings_ND.shape != (num, self.embedding_size):
            raise ValueError(f"expected ({num}, {self.embedding_size}), got {embeddings_ND.shape}")
        checked = np.ascontiguousarray(embeddings_ND, np.float32)
        if not np.isfinite(checked).all():
            raise ValueError("an embedding has a value that is not finite")
        return checked


def _is_due_for_compaction(state: State) -> bool:
    return state.num_dead > max(MIN_DEAD, MAX_DEAD * len(state.columns))
