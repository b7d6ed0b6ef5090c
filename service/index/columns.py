"""The properties of the indexed items, one column each: row i of every column belongs to the same item.

Searches read columns without a lock while items are added. An addition writes only behind the last row that
an earlier search reads, and every other change is made in a copy.
"""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import repeat
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.index.tracks import NO_TIME, track_starts

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]
Grouping = Literal["identity", "track", "camera"]
Value = TypeVar("Value", bound=Hashable)

RowTest = Callable[[slice], Mask]
"""Tests a range of rows: the mask is true for the rows that pass."""

DEFAULT_TRACK_GAP = 3_600_000_000
"""Microseconds without a sighting after which a camera's track id means another track."""

MAX_COMPARED_CODES = 6
"""A test for at most this many codes compares rows with each code; for more, it looks rows up in a table."""


@dataclass(frozen=True)
class Column(Generic[Value]):
    """A column of repeated values, stored once each: the value of row i is `values[codes[i]]`.

    `values` and `code_of` are shared between a column and its successors, and only ever grow.
    """

    codes: Codes
    values: list[Value]
    code_of: dict[Value, int]

    @classmethod
    def of(cls, codes: Codes, values: list[Value]) -> "Column[Value]":
        """Make a column from (N,) codes and the value of each code."""
        return cls(codes, values, {value: code for code, value in enumerate(values)})

    def appended(self, values: Sequence[Value]) -> "Column[Value]":
        """Return the column followed by `values`."""
        return replace(self, codes=appended(self.codes, self._encoded(values)))

    def changed(self, rows: Ints, values: Sequence[Value]) -> "Column[Value]":
        """Return a column in which `rows` have the new `values`."""
        return replace(self, codes=changed(self.codes, rows, self._encoded(values)))

    def kept(self, rows: Ints) -> "Column[Value]":
        """Return a column that has only these rows; values that no row has are dropped."""
        used, codes = np.unique(self.codes[rows], return_inverse=True)
        return Column.of(codes.astype(np.int32), [self.values[code] for code in used.tolist()])

    def decoded(self, rows: Ints) -> list[Value]:
        """Return the values of these rows."""
        return [self.values[code] for code in self.codes[rows].tolist()]

    def codes_of(self, values: Collection[Value]) -> Ints:
        """Return the codes of these values; values without a code are left out."""
        codes = np.fromiter(map(self.code_of.get, values, repeat(-1)), np.int64, len(values))
        return codes[codes >= 0]

    def test_for(self, codes: Ints) -> RowTest:
        """Return a test that passes the rows with one of these codes.

        >>> column = Column.of(np.array([0, 1, 0, 2], np.int32), ["a", "b", "c"])
        >>> column.test_for(np.array([0, 2]))(slice(1, 4)).tolist()
        [False, True, True]
        """
        if len(codes) <= MAX_COMPARED_CODES:
            compared = codes.tolist()
            return lambda rows: _is_any(self.codes[rows], compared)
        is_wanted = np.zeros(len(self.values), np.bool_)
        is_wanted[codes] = True
        return lambda rows: is_wanted.take(self.codes[rows])

    def _encoded(self, values: Sequence[Value]) -> Codes:
        codes = np.empty(len(values), np.int32)
        for row, value in enumerate(values):
            code = self.code_of.get(value)
            if code is None:
                code = len(self.values)
                self.values.append(value)
                self.code_of[value] = code
            codes[row] = code
        return codes


@dataclass(frozen=True)
class Columns:
    """All columns of an index, N rows each.

    To add a property, add a column here, its values to `Rows` and to `GalleryIndex.update`, its array to
    file.py under another `MAGIC`, and its conditions to filters.py.

    `starts` follows from the other columns. A change computes the tracks of the cameras and track ids that it
    touches, and leaves all others as they are.

    Attributes:
        slots: (N,) ascending; the number under which the caller knows the item.
        times: (N,) microseconds since 1970, or NO_TIME.
        is_alive: (N,) false for a deleted item.
        identities: the key of the item's identity.
        cameras: None for an item without a camera.
        tracks: the track id; None for an item without one. A track id alone names no track.
        starts: (N,) the row of the first item of the item's track; its own row for an item without a track.
        track_gap: microseconds; a longer gap between neighbouring items of a camera and a track id begins
            another track.
    """

    slots: Ints
    times: Ints
    is_alive: Mask
    identities: Column[int]
    cameras: Column[str | None]
    tracks: Column[str | None]
    starts: Codes
    track_gap: int = DEFAULT_TRACK_GAP

    @classmethod
    def empty(cls, track_gap: int = DEFAULT_TRACK_GAP) -> "Columns":
        """Return columns without rows."""
        ints, codes = np.empty(0, np.int64), np.empty(0, np.int32)
        alive = np.empty(0, np.bool_)
        coded = (Column[Any].of(codes, []), Column[Any].of(codes, []), Column[Any].of(codes, []))
        return cls(ints, ints, alive, *coded, codes, track_gap)

    @classmethod
    def of(
        cls,
        slots: Ints,
        times: Ints,
        is_alive: Mask,
        identities: Column[int],
        cameras: Column[str | None],
        tracks: Column[str | None],
        track_gap: int,
    ) -> "Columns":
        """Return columns whose tracks are computed from the other columns."""
        own = np.arange(len(slots), dtype=np.int32)
        columns = cls(slots, times, is_alive, identities, cameras, tracks, own, track_gap)
        return columns._with_tracks(columns._pairs(own), 0)

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def num_dead(self) -> int:
        """Return how many rows belong to deleted items."""
        return len(self) - int(np.count_nonzero(self.is_alive))

    def appended(
        self,
        slots: Ints,
        identity_keys: Sequence[int],
        camera_ids: Sequence[str | None],
        captured_ats: Sequence[datetime | None],
        track_ids: Sequence[str | None],
        *,
        has_tracks: bool = True,
    ) -> "Columns":
        """Return the columns followed by new rows; value i of each sequence belongs to slot i.

        Without `has_tracks` each new row counts as a track of its own, until `with_all_tracks` is called.
        """
        own = np.arange(len(self), len(self) + len(slots), dtype=np.int32)
        columns = replace(
            self,
            slots=appended(self.slots, slots),
            times=appended(self.times, times(captured_ats)),
            is_alive=appended(self.is_alive, np.ones(len(slots), np.bool_)),
            identities=self.identities.appended(identity_keys),
            cameras=self.cameras.appended(camera_ids),
            tracks=self.tracks.appended(track_ids),
            starts=appended(self.starts, own),
        )
        return columns._with_tracks(columns._pairs(own), len(self)) if has_tracks else columns

    def with_all_tracks(self) -> "Columns":
        """Return columns in which all tracks are computed again."""
        return self._with_tracks(self._pairs(np.arange(len(self))))

    def changed(
        self,
        rows: Ints,
        identity_keys: Sequence[int],
        camera_ids: Sequence[str | None],
        captured_ats: Sequence[datetime | None],
        track_ids: Sequence[str | None],
    ) -> "Columns":
        """Return columns in which these rows have new properties; value i of each sequence is for rows[i]."""
        columns = replace(
            self,
            times=changed(self.times, rows, times(captured_ats)),
            identities=self.identities.changed(rows, identity_keys),
            cameras=self.cameras.changed(rows, camera_ids),
            tracks=self.tracks.changed(rows, track_ids),
        )
        is_moved = columns.times[rows] != self.times[rows]
        is_moved |= columns.cameras.codes[rows] != self.cameras.codes[rows]
        is_moved |= columns.tracks.codes[rows] != self.tracks.codes[rows]
        moved = rows[is_moved]
        if not len(moved):
            return columns
        columns = replace(columns, starts=changed(columns.starts, moved, moved.astype(np.int32)))
        return columns._with_tracks(np.concatenate([self._pairs(moved), columns._pairs(moved)]))

    def deleted(self, rows: Ints) -> "Columns":
        """Return columns in which these rows are marked as deleted."""
        columns = replace(self, is_alive=changed(self.is_alive, rows, False))
        return columns._with_tracks(self._pairs(rows))

    def kept(self, rows: Ints) -> "Columns":
        """Return columns that have only these rows, which must include every row that is not deleted."""
        place_of = np.zeros(len(self), np.int32)
        place_of[rows] = np.arange(len(rows), dtype=np.int32)
        return replace(
            self,
            slots=self.slots[rows],
            times=self.times[rows],
            is_alive=self.is_alive[rows],
            identities=self.identities.kept(rows),
            cameras=self.cameras.kept(rows),
            tracks=self.tracks.kept(rows),
            starts=place_of[self.starts[rows]],
        )

    def rows_of(self, slots: Sequence[int] | Ints) -> tuple[Ints, Mask]:
        """Return the row of each slot, and a mask that is true for slots present and not deleted.

        The row is meaningless where the mask is false.
        """
        wanted = np.asarray(slots, np.int64).reshape(-1)
        rows = np.searchsorted(self.slots, wanted)
        is_there = rows < len(self)
        is_there[is_there] = self.slots[rows[is_there]] == wanted[is_there]
        is_there[is_there] = self.is_alive[rows[is_there]]
        return rows, is_there

    def groups(self, by: Grouping, rows: Ints) -> Ints:
        """Return the number of the group of each row.

        Each item without a track is a group of its own. All items without a camera form one group.
        """
        if by == "track":
            return self.starts[rows].astype(np.int64)
        return (self.identities if by == "identity" else self.cameras).codes[rows].astype(np.int64)

    def in_groups(self, by: Grouping, groups: Ints) -> Mask:
        """Return an (N,) mask that is true for the rows of these groups."""
        if by == "track":
            is_wanted = np.zeros(len(self), np.bool_)
            is_wanted[groups] = True
            return is_wanted.take(self.starts)
        return (self.identities if by == "identity" else self.cameras).test_for(groups)(slice(None))

    def _pairs(self, rows: NDArray[Any]) -> Ints:
        """Return for each of these rows that has a track id one number for its camera and its track id."""
        track_codes = self.tracks.codes[rows]
        has_track = track_codes != self.tracks.code_of.get(None, -1)
        return self._pair_numbers(rows[has_track])

    def _pair_numbers(self, rows: NDArray[Any]) -> Ints:
        numbers: Ints = self.cameras.codes[rows].astype(np.int64) << 32 | self.tracks.codes[rows]
        return numbers

    def _with_tracks(self, pairs: Ints, num_shared: int | None = None) -> "Columns":
        """Return columns in which the tracks of these cameras and track ids are computed again.

        Args:
            pairs: as `_pairs` returns them.
            num_shared: rows of `starts` that an earlier state reads; the others are written in place. By
                default an earlier state reads all.
        """
        if not len(pairs):
            return self
        pairs = np.unique(pairs)
        has_track_id = np.zeros(len(self.tracks.values), np.bool_)
        has_track_id[pairs & 0xFFFFFFFF] = True
        rows = np.flatnonzero(has_track_id.take(self.tracks.codes) & self.is_alive)
        numbers = self._pair_numbers(rows)
        is_touched = pairs.take(np.searchsorted(pairs, numbers), mode="clip") == numbers
        rows, numbers = rows[is_touched], numbers[is_touched]
        starts = rows[track_starts(numbers, self.times[rows], self.track_gap)].astype(np.int32)
        is_moved = self.starts[rows] != starts
        is_own = rows >= (len(self) if num_shared is None else num_shared)
        self.starts[rows[is_moved & is_own]] = starts[is_moved & is_own]
        shared = is_moved & ~is_own
        if not shared.any():
            return self
        return replace(self, starts=changed(self.starts, rows[shared], starts[shared]))


def _is_any(codes_N: Codes, codes: Sequence[int]) -> Mask:
    mask = np.zeros(len(codes_N), np.bool_)
    for code in codes:
        mask |= codes_N == code
    return mask


def appended(column: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    """Return `column` followed by `new`, in the same memory if `new` fits behind the column.

    Call this only on the newest column: two appends to one column would write to the same memory.
    """
    num, end = len(column), len(column) + len(new)
    memory = column if column.base is None else column.base
    if not isinstance(memory, np.ndarray) or len(memory) < end:
        memory = np.empty(end + end // 2, column.dtype)
        memory[:num] = column
    memory[num:end] = new
    return memory[:end]


def changed(column: NDArray[Any], rows: Ints, new: NDArray[Any] | bool) -> NDArray[Any]:
    """Return a copy of `column` in which `rows` have the new values."""
    column = column.copy()
    column[rows] = new
    return column


def times(captured_ats: Sequence[datetime | None]) -> Ints:
    """Convert times to (N,) microseconds since 1970, or NO_TIME for None."""
    return np.fromiter(map(microseconds, captured_ats), np.int64, len(captured_ats))


def microseconds(time: datetime | None) -> int:
    """Convert a time to microseconds since 1970, or NO_TIME for None.

    >>> microseconds(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    1000000
    """
    if time is None:
        return NO_TIME
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
