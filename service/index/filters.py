"""Which items to search: a filter, and the rows it lets through, worked out before any search."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from service.index.columns import NO_TIME, Column, Columns, Mask, Test, microseconds

CHUNK = 65_536
"""Rows that are tested at a time: all tests find them in the processor's cache."""


@dataclass(frozen=True)
class Sighting:
    """Where and when someone was seen; what that camera saw within so many seconds of it is near."""

    camera_id: str
    captured_at: datetime
    within_s: float


@dataclass(frozen=True)
class Filter:
    """Which items to search: all of these must hold, and an empty field says nothing.

    An item without a camera (or track) is in none and is never excluded by one; an item without a time is
    outside every window and near no sighting. `identity_keys` is None for everybody; empty, it is nobody.
    """

    camera_ids: frozenset[str] = frozenset()
    excluded_camera_ids: frozenset[str] = frozenset()
    captured_after: datetime | None = None
    """At this time or later."""
    captured_before: datetime | None = None
    """Before this time."""
    identity_keys: frozenset[int] | None = None
    excluded_identity_keys: frozenset[int] = frozenset()
    track_ids: frozenset[str] = frozenset()
    excluded_track_ids: frozenset[str] = frozenset()
    excluded_sighting: Sighting | None = None
    """Not what is near this one."""


def passing(columns: Columns, only: Filter) -> Mask:
    """Mark the rows that are alive and that a filter lets through."""
    mask = columns.is_alive.copy()
    tests = [
        *_tests(columns.identities, only.identity_keys, only.excluded_identity_keys),
        *_tests(columns.cameras, only.camera_ids or None, only.excluded_camera_ids),
        *_tests(columns.tracks, only.track_ids or None, only.excluded_track_ids),
        *_time_tests(columns, only.captured_after, only.captured_before),
    ]
    if only.excluded_sighting is not None:
        tests.append(_sighting_test(columns, only.excluded_sighting))
    for start in range(0, len(columns), CHUNK):
        rows = slice(start, start + CHUNK)
        for test in tests:
            mask[rows] &= test(rows)
    return mask


def _tests(column: Column[Any], wanted: frozenset[Any] | None, unwanted: frozenset[Any]) -> list[Test]:
    if wanted is not None:
        return [column.test_for(column.codes_of(wanted - unwanted if unwanted else wanted))]
    if not unwanted:
        return []
    is_out = column.test_for(column.codes_of(unwanted))
    return [lambda rows: ~is_out(rows)]


def _time_tests(columns: Columns, after: datetime | None, before: datetime | None) -> list[Test]:
    tests: list[Test] = []
    if after is not None:
        first = microseconds(after)
        tests.append(lambda rows: columns.times[rows] >= first)
    if before is not None:
        end = microseconds(before)
        tests.append(lambda rows: columns.times[rows] < end)
        if after is None:
            tests.append(lambda rows: columns.times[rows] != NO_TIME)
    return tests


def _sighting_test(columns: Columns, sighting: Sighting) -> Test:
    """Return what lets through all but what the camera saw near that time, both ends included."""
    seen, within = microseconds(sighting.captured_at), round(sighting.within_s * 1_000_000)
    first, last = max(seen - within, NO_TIME + 1), min(seen + within, np.iinfo(np.int64).max)
    is_there = columns.cameras.test_for(columns.cameras.codes_of([sighting.camera_id]))

    def test(rows: slice) -> Mask:
        times = columns.times[rows]
        return ~(is_there(rows) & (times >= first) & (times <= last))

    return test
