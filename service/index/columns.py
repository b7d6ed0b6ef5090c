"""What the index knows of its items beside their embeddings: one array a property, row i of each is one item.

Searches read columns while rows are added, without a lock: new rows are only ever written behind the end that
a search knows, and whatever else changes is changed in a copy.
"""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import repeat
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]
Grouping = Literal["identity", "track", "camera"]
Value = TypeVar("Value", bound=Hashable)

Test = Callable[[slice], Mask]
"""Marks those of some rows that it lets through."""

FEW_CODES = 6
"""Up to so many, comparing with each is faster than looking each row up."""

NO_TIME = np.iinfo(np.int64).min
"""The time of an item without one, in the column of times: before everything."""


@dataclass(frozen=True)
class Column(Generic[Value]):
    """Values as small numbers: row i has `values[codes[i]]`. `values` and `code_of` only ever grow."""

    codes: Codes
    values: list[Value]
    code_of: dict[Value, int]

    @classmethod
    def of(cls, codes: Codes, values: list[Value]) -> "Column[Value]":
        """Make a column of codes and what they stand for."""
        return cls(codes, values, {value: code for code, value in enumerate(values)})

    def appended(self, values: Sequence[Value]) -> "Column[Value]":
        """Return the column with these values behind."""
        return replace(self, codes=appended(self.codes, self._encoded(values)))

    def changed(self, rows: Ints, values: Sequence[Value]) -> "Column[Value]":
        """Return the column with other values in these rows."""
        return replace(self, codes=changed(self.codes, rows, self._encoded(values)))

    def kept(self, rows: Ints) -> "Column[Value]":
        """Return a column of these rows alone, which has forgotten the values that no row has."""
        used, codes = np.unique(self.codes[rows], return_inverse=True)
        return Column.of(codes.astype(np.int32), [self.values[code] for code in used.tolist()])

    def decoded(self, rows: Ints) -> list[Value]:
        """Return the values of these rows."""
        return [self.values[code] for code in self.codes[rows].tolist()]

    def codes_of(self, values: Collection[Value]) -> Ints:
        """Return the codes of these values, as far as some row has had them."""
        codes = np.fromiter(map(self.code_of.get, values, repeat(-1)), np.int64, len(values))
        return codes[codes >= 0]

    def test_for(self, codes: Ints) -> Test:
        """Return what marks those of some rows that have one of these codes.

        >>> column = Column.of(np.array([0, 1, 0, 2], np.int32), ["a", "b", "c"])
        >>> column.test_for(np.array([0, 2]))(slice(1, 4)).tolist()
        [False, True, True]
        """
        if len(codes) <= FEW_CODES:
            few = codes.tolist()
            return lambda rows: _is_any(self.codes[rows], few)
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
    """The columns of an index; `slots` ascend, `is_alive` is false where an item was removed."""

    slots: Ints
    times: Ints
    is_alive: Mask
    identities: Column[int]
    cameras: Column[str | None]
    tracks: Column[str | None]

    @classmethod
    def empty(cls) -> "Columns":
        """Return columns without a row."""
        ints, codes = np.empty(0, np.int64), np.empty(0, np.int32)
        alive = np.empty(0, np.bool_)
        return cls(ints, ints, alive, Column.of(codes, []), Column.of(codes, []), Column.of(codes, []))

    def __len__(self) -> int:
        return len(self.slots)

    def appended(
        self,
        slots: Ints,
        identity_keys: Sequence[int],
        camera_ids: Sequence[str | None],
        captured_ats: Sequence[datetime | None],
        track_ids: Sequence[str | None],
    ) -> "Columns":
        """Return the columns with these rows behind."""
        return Columns(
            slots=appended(self.slots, slots),
            times=appended(self.times, times(captured_ats)),
            is_alive=appended(self.is_alive, np.ones(len(slots), np.bool_)),
            identities=self.identities.appended(identity_keys),
            cameras=self.cameras.appended(camera_ids),
            tracks=self.tracks.appended(track_ids),
        )

    def kept(self, rows: Ints) -> "Columns":
        """Return columns of these rows alone."""
        return Columns(
            slots=self.slots[rows],
            times=self.times[rows],
            is_alive=self.is_alive[rows],
            identities=self.identities.kept(rows),
            cameras=self.cameras.kept(rows),
            tracks=self.tracks.kept(rows),
        )

    def rows_of(self, slots: Sequence[int] | Ints) -> tuple[Ints, Mask]:
        """Return the row of each slot, and which of them are there and alive."""
        wanted = np.asarray(slots, np.int64).reshape(-1)
        rows = np.searchsorted(self.slots, wanted)
        is_there = rows < len(self)
        is_there[is_there] = self.slots[rows[is_there]] == wanted[is_there]
        is_there[is_there] = self.is_alive[rows[is_there]]
        return rows, is_there

    def groups(self, by: Grouping, rows: Ints) -> Ints:
        """Return a number for the group of each of these rows.

        Items without a track are groups of their own, below zero; those without a camera are one group.
        """
        groups = self._grouping(by).codes[rows].astype(np.int64)
        if by == "track":
            is_alone = groups == self.tracks.code_of.get(None, -1)
            groups[is_alone] = -1 - rows[is_alone]
        return groups

    def in_groups(self, by: Grouping, groups: Ints) -> Mask:
        """Mark the rows of these groups."""
        mask = self._grouping(by).test_for(groups[groups >= 0])(slice(None))
        mask[-1 - groups[groups < 0]] = True
        return mask

    def _grouping(self, by: Grouping) -> Column[Any]:
        columns: dict[Grouping, Column[Any]] = {
            "identity": self.identities,
            "camera": self.cameras,
            "track": self.tracks,
        }
        return columns[by]


def _is_any(codes_N: Codes, codes: Sequence[int]) -> Mask:
    mask = np.zeros(len(codes_N), np.bool_)
    for code in codes:
        mask |= codes_N == code
    return mask


def appended(column: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    """Return a column with new rows behind; where there is room, in the memory behind the old one's end.

    Only the newest column may be added to, or two would write to the same rows.
    """
    num, end = len(column), len(column) + len(new)
    memory = column if column.base is None else column.base
    if not isinstance(memory, np.ndarray) or len(memory) < end:
        memory = np.empty(end + end // 2, column.dtype)
        memory[:num] = column
    memory[num:end] = new
    return memory[:end]


def changed(column: NDArray[Any], rows: Ints, new: NDArray[Any] | bool) -> NDArray[Any]:
    """Return a copy of a column with other values in these rows."""
    column = column.copy()
    column[rows] = new
    return column


def times(captured_ats: Sequence[datetime | None]) -> Ints:
    """Return times as microseconds since 1970."""
    return np.fromiter(map(microseconds, captured_ats), np.int64, len(captured_ats))


def microseconds(time: datetime | None) -> int:
    """Return the microseconds since 1970.

    >>> microseconds(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    1000000
    """
    if time is None:
        return NO_TIME
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
