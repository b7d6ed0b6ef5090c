"""The filter of a search, and the rows that a filter passes, computed before the search.

To filter by another property of items, add a column to `Columns`, fields to `Filter`, and their tests to
`row_mask`: `_code_tests` for membership in a set of values, `_range_tests` for a range of numbers or times. A
condition on identities, such as a range of an attribute, needs no column: the caller looks up the identities
that meet the condition, and passes their `identity_keys`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from service.index.columns import Column, Columns, Ints, Mask, RowTest, microseconds
from service.index.tracks import NO_TIME

CHUNK = 65_536
"""Rows tested at a time: few enough to stay in the processor's cache from the first test to the last."""


@dataclass(frozen=True)
class Sighting:
    """A camera and a time at which somebody was seen.

    An item is near the sighting if it is of the same camera and at most `within_s` seconds earlier or later.
    """

    camera_id: str
    captured_at: datetime
    within_s: float
    spellings: frozenset[str] = frozenset()
    """Other spellings of the name of the camera."""

    @property
    def camera_ids(self) -> frozenset[str]:
        """Return the name of the camera in each spelling."""
        return self.spellings | {self.camera_id}


@dataclass(frozen=True)
class CameraTracks:
    """Tracks of one camera by their track ids.

    Attributes:
        camera_id: the camera.
        track_ids: the track ids.
        captured_at: only the tracks to which a sighting at this time would belong; None means all tracks.
    """

    camera_id: str
    track_ids: frozenset[str]
    captured_at: datetime | None = None


@dataclass(frozen=True)
class Filter:
    """The items to search: an item passes if it meets the condition of every field.

    The default of a field is no condition. An item without a camera never passes `camera_ids` and is never
    excluded by `excluded_camera_ids`; the same holds for tracks. An item without a time is outside every
    window, and near no sighting.

    Attributes:
        camera_ids: pass only items of these cameras.
        excluded_camera_ids: pass no items of these cameras.
        captured_after: pass only items captured at this time or later. Times carry a time zone.
        captured_before: pass only items captured before this time.
        identity_keys: pass only items of these identities; None passes all identities, an empty set none.
        excluded_identity_keys: pass no items of these identities.
        track_ids: pass only items with these track ids, of every camera.
        excluded_track_ids: pass no items with these track ids, of any camera.
        excluded_tracks: pass no items on these tracks.
        excluded_sighting: pass no items near this sighting.
        excluded_slots: pass none of the items with these slots.
    """

    camera_ids: frozenset[str] = frozenset()
    excluded_camera_ids: frozenset[str] = frozenset()
    captured_after: datetime | None = None
    captured_before: datetime | None = None
    identity_keys: frozenset[int] | None = None
    excluded_identity_keys: frozenset[int] = frozenset()
    track_ids: frozenset[str] = frozenset()
    excluded_track_ids: frozenset[str] = frozenset()
    excluded_tracks: CameraTracks | None = None
    excluded_sighting: Sighting | None = None
    excluded_slots: frozenset[int] = frozenset()


def row_mask(columns: Columns, only: Filter) -> Mask:
    """Return an (N,) mask that is true for the rows that are not deleted and that the filter passes."""
    mask = columns.is_alive.copy()
    tests = [
        *_code_tests(columns.identities, only.identity_keys, only.excluded_identity_keys),
        *_code_tests(columns.cameras, only.camera_ids or None, only.excluded_camera_ids),
        *_code_tests(columns.tracks, only.track_ids or None, only.excluded_track_ids),
        *_range_tests(columns.times, _time(only.captured_after), _time(only.captured_before), NO_TIME),
    ]
    if only.excluded_sighting is not None:
        tests.append(_sighting_test(columns, only.excluded_sighting))
    for start in range(0, len(columns), CHUNK):
        rows = slice(start, start + CHUNK)
        for test in tests:
            mask[rows] &= test(rows)
    if only.excluded_tracks is not None:
        mask[_rows_on(columns, only.excluded_tracks)] = False
    if only.excluded_slots:
        found, is_there = columns.rows_of(sorted(only.excluded_slots))
        mask[found[is_there]] = False
    return mask


def _rows_on(columns: Columns, tracks: CameraTracks) -> Ints:
    """Return the rows on these tracks."""
    is_by_camera = columns.cameras.test_for(columns.cameras.codes_of([tracks.camera_id]))
    has_track_id = columns.tracks.test_for(columns.tracks.codes_of(tracks.track_ids))
    everything = slice(None)
    rows: Ints = np.flatnonzero(is_by_camera(everything) & has_track_id(everything) & columns.is_alive)
    if tracks.captured_at is not None:
        rows = _at_time(columns, rows, microseconds(tracks.captured_at))
    return rows


def _at_time(columns: Columns, rows: Ints, seen: int) -> Ints:
    """Return those of the rows whose track a sighting at this time, in microseconds, would belong to."""
    rows = rows[columns.times[rows] != NO_TIME]
    times = columns.times[rows]
    _, numbers = np.unique(columns.starts[rows], return_inverse=True)
    num = int(numbers.max()) + 1 if len(rows) else 0
    firsts, lasts = np.full(num, np.iinfo(np.int64).max), np.full(num, NO_TIME)
    np.minimum.at(firsts, numbers, times)
    np.maximum.at(lasts, numbers, times)
    is_near: Mask = (firsts <= seen + columns.track_gap) & (lasts >= seen - columns.track_gap)
    near: Ints = rows[is_near[numbers]]
    return near


def _code_tests(
    column: Column[Any], wanted: frozenset[Any] | None, unwanted: frozenset[Any]
) -> list[RowTest]:
    """Return tests that pass the values in `wanted`, or all if it is None, but none of `unwanted`."""
    if wanted is not None:
        return [column.test_for(column.codes_of(wanted - unwanted if unwanted else wanted))]
    if not unwanted:
        return []
    is_unwanted = column.test_for(column.codes_of(unwanted))
    return [lambda rows: ~is_unwanted(rows)]


def _range_tests(values_N: Ints, first: int | None, end: int | None, missing: int) -> list[RowTest]:
    """Return tests that pass values with `first` <= value < `end`; a bound of None is no condition.

    `missing` stands for an unknown value, which fails every bound. It must be below every other value.
    """
    tests: list[RowTest] = []
    if first is not None:
        tests.append(lambda rows: values_N[rows] >= first)
    if end is not None:
        tests.append(lambda rows: values_N[rows] < end)
        if first is None:
            tests.append(lambda rows: values_N[rows] != missing)
    return tests


def _time(bound: datetime | None) -> int | None:
    return None if bound is None else microseconds(bound)


def _sighting_test(columns: Columns, sighting: Sighting) -> RowTest:
    """Return a test that fails the rows near the sighting; both ends of its time window count as near."""
    seen, within = microseconds(sighting.captured_at), round(sighting.within_s * 1_000_000)
    first, last = max(seen - within, NO_TIME + 1), min(seen + within, np.iinfo(np.int64).max)
    is_same_camera = columns.cameras.test_for(columns.cameras.codes_of(sighting.camera_ids))

    def test(rows: slice) -> Mask:
        times = columns.times[rows]
        return ~(is_same_camera(rows) & (times >= first) & (times <= last))

    return test
