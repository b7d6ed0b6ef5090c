"""The embeddings of one model version in memory, searchable by similarity and filter.

A search takes the current `State` once and uses it from start to end. It holds no lock and sees each change
whole or not at all. A change makes a new `State`, which shares most of its memory with the former one, and
then replaces the reference. One lock lets changes happen one at a time.

The rows of deleted items stay, marked as deleted, until they are a fifth of all rows. A background thread
then copies the index without these rows. The same thread builds and extends the ANN index. Rows newer than
the ANN index are always scored exactly.

Shape suffixes: N items, D dimensions of an embedding.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from threading import Event, Lock, Thread

import numpy as np
from numpy.typing import NDArray

from service.index import file as index_file
from service.index.ann import AnnIndex
from service.index.columns import DEFAULT_TRACK_GAP, Columns, Grouping, Ints
from service.index.filters import Filter, row_mask
from service.index.maintenance import (
    MAX_EXACT_S,
    MIN_ROWS_FOR_ANN,
    IndexKind,
    Maintenance,
    is_compaction_due,
    is_training_due,
)
from service.index.rows import Rows
from service.index.state import Hits, State
from service.index.vectors import Embeddings, Floats

DEFAULT_TRACK_GAP_S = DEFAULT_TRACK_GAP / 1_000_000


class GalleryIndex:
    """Search by inner product over embeddings of one size; every method may be called from any thread.

    Args:
        embedding_size: the number of dimensions, D.
        kind: "exact" scores every row. "hnsw" and "ivf" build an ANN index of that kind from 10,000 rows on:
            searches are faster, and may miss some of the true best items. "auto" is exact until an exact
            search takes longer than `max_exact_s`, and then builds an ANN index.
        max_exact_s: the seconds that an exact search may take under "auto".
        track_gap_s: seconds; a longer gap between neighbouring items of a camera and a track id begins
            another track.
    """

    def __init__(
        self,
        embedding_size: int,
        kind: IndexKind = "exact",
        max_exact_s: float = MAX_EXACT_S,
        track_gap_s: float = DEFAULT_TRACK_GAP_S,
    ) -> None:
        self.embedding_size = embedding_size
        self.kind = kind
        self.track_gap_s = track_gap_s
        self._maintenance = Maintenance(kind, max_exact_s)
        self._change_lock = Lock()
        self._state = State(Columns.empty(_gap(track_gap_s)), Embeddings.empty(embedding_size), 0, None)
        self._closed = Event()
        self._thread: Thread | None = None

    def __len__(self) -> int:
        state = self._state
        return len(state.columns) - state.num_dead

    @property
    def kind_in_use(self) -> IndexKind:
        """Return the kind of index that searches without a filter use now; never `auto`."""
        return self._state.kind

    def slots(self) -> Ints:
        """Return the slots of all items, ascending."""
        columns = self._state.columns
        return columns.slots[columns.is_alive]

    def embeddings(self, slots: Sequence[int] | Ints) -> NDArray[np.float16]:
        """Return the embeddings of these items, (N, D).

        Raises:
            ValueError: a slot is not in the index.
        """
        state = self._state
        rows, is_there = state.columns.rows_of(slots)
        if not is_there.all():
            raise ValueError(f"slots that are not in the index: {np.asarray(slots)[~is_there][:5].tolist()}")
        return state.embeddings.rows_ND[rows]

    def matching(self, only: Filter) -> tuple[Columns, Ints, NDArray[np.float16]]:
        """Return the data of the items that a filter passes, for computations beyond search.

        Returns:
            The columns of all rows, the numbers of the rows that pass, and the embeddings of all rows,
            (N, D). All three come from the same state; copy rows before changing them.
        """
        state = self._state
        return state.columns, np.flatnonzero(row_mask(state.columns, only)), state.embeddings.rows_ND

    def search(self, query_D: Floats, k: int, only: Filter) -> Hits:
        """Find the k items most similar to a query, and all items that tie with the k-th.

        Args:
            query_D: (D,) float32, finite.
            k: at least 1.
            only: the items to search.

        Returns:
            The hits, best first; fewer than k if the filter passes fewer items.

        Raises:
            ValueError: the query has another shape, or a value that is not finite.
        """
        query_1D = self._checked(query_D[None], 1)
        state = self._state
        return state.topk(query_1D, k, row_mask(state.columns, only))

    def search_groups(
        self, query_D: Floats, k: int, items_each: int, only: Filter, by: Grouping = "identity"
    ) -> Hits:
        """Find the k groups most similar to a query, and the best items of each.

        The score of a group is the score of its best item. Each item without a track is a group of its own.
        All items without a camera form one group.

        Args:
            query_D: (D,) float32, finite.
            k: how many groups, at least 1; groups that tie with the k-th are included.
            items_each: how many items of each group, at least 1; items that tie with the last are included.
            only: the items to search.
            by: what the items of a group have in common.

        Returns:
            The hits of all these groups together, best first; `group_keys` tells the groups apart.

        Raises:
            ValueError: the query has another shape, or a value that is not finite.
        """
        query_1D = self._checked(query_D[None], 1)
        state = self._state
        return state.topk_groups(query_1D, k, items_each, row_mask(state.columns, only), by)

    def add(self, rows: Rows, *, has_tracks: bool = True) -> None:
        """Add items whose slots are greater than every slot in the index.

        Without `has_tracks` each item counts as a track of its own until `find_tracks` is called, so that a
        large index is filled faster.

        Raises:
            ValueError: the fields differ in length, the embeddings have another shape or a value that is not
                finite, or the slots do not ascend. The index is unchanged.
        """
        slots = np.asarray(rows.slots, np.int64)
        self._checked(rows.embeddings_ND, len(slots))
        properties = (rows.identity_keys, rows.camera_ids, rows.captured_ats, rows.track_ids)
        if any(len(values) != len(slots) for values in properties):
            raise ValueError("expected as many identities, cameras, times and tracks as slots")
        with self._change_lock:
            state = self._state
            if (np.diff(np.concatenate([state.columns.slots[-1:], slots])) <= 0).any():
                raise ValueError("expected slots that ascend from the last one in the index")
            columns = state.columns.appended(slots, *properties, has_tracks=has_tracks)
            embeddings = state.embeddings.appended(rows.embeddings_ND)
            self._publish(replace(state, columns=columns, embeddings=embeddings))

    def find_tracks(self) -> None:
        """Compute the tracks of all items again, after items were added without."""
        with self._change_lock:
            self._publish(replace(self._state, columns=self._state.columns.with_all_tracks()))

    def update(
        self,
        slots: Sequence[int],
        identity_keys: Sequence[int],
        camera_ids: Sequence[str | None],
        captured_ats: Sequence[datetime | None],
        track_ids: Sequence[str | None],
    ) -> None:
        """Replace the properties of items, not their embeddings; a slot that is not in the index is ignored.

        Args:
            slots: the items to update, in any order; no slot twice.
            identity_keys: the new key of each item's identity.
            camera_ids: the new camera of each item, or None.
            captured_ats: the new time of each item, with a time zone, or None.
            track_ids: the new track of each item, or None.

        Raises:
            ValueError: the arguments differ in length.
        """
        properties = (identity_keys, camera_ids, captured_ats, track_ids)
        if any(len(values) != len(slots) for values in properties):
            raise ValueError("expected as many identities, cameras, times and tracks as slots")
        with self._change_lock:
            columns = self._state.columns
            rows, is_there = columns.rows_of(slots)
            if not is_there.any():
                return
            there = np.flatnonzero(is_there).tolist()
            columns = columns.changed(
                rows[is_there],
                [identity_keys[i] for i in there],
                [camera_ids[i] for i in there],
                [captured_ats[i] for i in there],
                [track_ids[i] for i in there],
            )
            self._publish(replace(self._state, columns=columns))

    def delete(self, slots: Sequence[int] | Ints) -> int:
        """Delete items, and return how many there were; a slot that is not in the index is ignored.

        No later search finds the items. Their data stays in memory until the index is compacted.
        """
        with self._change_lock:
            state = self._state
            rows, is_there = state.columns.rows_of(slots)
            rows = np.unique(rows[is_there])
            if len(rows):
                num_dead = state.num_dead + len(rows)
                self._publish(replace(state, columns=state.columns.deleted(rows), num_dead=num_dead))
            return len(rows)

    def erase(self, slots: Sequence[int] | Ints) -> None:
        """Delete items, and erase the data of all deleted items from memory before returning.

        Embeddings are erased, and camera and track names that no other item has. The ANN index is discarded,
        because its codes approximate embeddings, and built again in the background. Other changes wait until
        this one has ended. A search that already runs keeps its state until the search ends.
        """
        with self._change_lock:
            state = self._state
            rows, is_there = state.columns.rows_of(slots)
            columns = state.columns.deleted(rows[is_there])
            alive = np.flatnonzero(columns.is_alive)
            if len(alive) < len(columns):
                columns, embeddings = columns.kept(alive), state.embeddings.kept(alive)
                self._publish(State(columns, embeddings, 0, None, state.layout_version + 1))

    def write(self, path: Path) -> None:
        """Write the current state to a file; searches and changes go on."""
        state = self._state
        index_file.write(path, state.columns, state.embeddings, state.ann)

    @classmethod
    def read(
        cls, path: Path, kind: IndexKind = "exact", track_gap_s: float = DEFAULT_TRACK_GAP_S
    ) -> "GalleryIndex":
        """Read what `write` wrote; an ANN index of another kind is ignored.

        Raises:
            ValueError: the file is damaged, or not an index.
            OSError: the file cannot be read.
        """
        columns, embeddings, ann = index_file.read(path, _gap(track_gap_s))
        index = cls(embeddings.size, kind, track_gap_s=track_gap_s)
        if ann is not None and (kind == "exact" or ann.kind != index._maintenance.ann_kind):
            ann = None
        with index._change_lock:
            index._publish(State(columns, embeddings, columns.num_dead, ann))
        return index

    def wait(self) -> None:
        """Wait until the background thread has nothing left to do."""
        while (thread := self._thread) is not None:
            thread.join()

    def close(self) -> None:
        """Stop the background thread and wait until it has ended; searches and changes still work."""
        self._closed.set()
        self.wait()

    def _publish(self, state: State) -> None:
        """Let all later searches use this state; the caller holds the lock."""
        self._state = state
        if self._thread is None and not self._closed.is_set() and self._maintenance.is_due(state):
            thread = Thread(target=self._maintain, name="rebuild-index")
            thread.start()  # the thread first waits for the lock that the caller holds
            self._thread = thread

    def _maintain(self) -> None:
        """Compact the index and build its ANN index as long as either is due, in the background thread."""
        try:
            while True:
                with self._change_lock:
                    state = self._state
                    if self._closed.is_set() or not self._maintenance.is_due(state):
                        self._thread = None
                        return
                if is_compaction_due(state):
                    self._compact(state)
                elif self._maintenance.is_ann_needed(state):
                    self._build_ann(state)
        except BaseException:
            self._thread = None  # the next change tries again
            raise

    def _build_ann(self, state: State) -> None:
        """Build or extend the ANN index, without the lock, and put it into the newest state.

        The ANN index fits the newest state if no item has moved to another row: added rows come after the
        rows of the ANN index, and a search masks deleted rows.
        """
        rows_ND = state.embeddings.rows_ND
        if state.ann is None or is_training_due(state.ann, len(rows_ND)):
            ann = AnnIndex.build(self._maintenance.ann_kind, rows_ND, self._closed)
        else:
            ann = state.ann.extended(rows_ND, self._closed)
        with self._change_lock:
            if self._state.layout_version == state.layout_version:
                self._state = replace(self._state, ann=ann)

    def _compact(self, state: State) -> None:
        """Copy the index without the rows that were deleted in `state`.

        The embeddings are copied without the lock, because the embedding of a row never changes. The columns,
        and rows added during the copy, come from the newest state. Only this method and `erase` move items to
        other rows.
        """
        rows = np.flatnonzero(state.columns.is_alive)
        embeddings = state.embeddings.kept(rows)
        ann = None
        if state.ann is not None and len(rows) >= MIN_ROWS_FOR_ANN:
            ann = AnnIndex.build(self._maintenance.ann_kind, embeddings.rows_ND, self._closed)
        with self._change_lock:
            newest = self._state
            if newest.layout_version != state.layout_version:
                return
            added = np.arange(len(state.columns), len(newest.columns))
            columns = newest.columns.kept(np.concatenate([rows, added]))
            embeddings = embeddings.appended(newest.embeddings.rows_ND[added])
            self._state = State(columns, embeddings, columns.num_dead, ann, newest.layout_version + 1)

    def _checked(self, embeddings_ND: NDArray[np.float16] | Floats, num: int) -> Floats:
        if embeddings_ND.shape != (num, self.embedding_size):
            raise ValueError(f"expected ({num}, {self.embedding_size}), got {embeddings_ND.shape}")
        checked = np.ascontiguousarray(embeddings_ND, np.float32)
        if not np.isfinite(checked).all():
            raise ValueError("an embedding has a value that is not finite")
        return checked


def _gap(track_gap_s: float) -> int:
    return round(track_gap_s * 1_000_000)
