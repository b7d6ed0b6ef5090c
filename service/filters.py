"""Which items to search: a filter, and the rows it lets through, worked out before any search."""

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import numpy as np

from service.columns import NO_TIME, Column, Columns, Mask, microseconds

Value = TypeVar("Value", bound=Hashable)


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
    if only.identity_keys is not None:
        mask &= _is_one_of(columns.identities, only.identity_keys)
    if only.excluded_identity_keys:
        mask &= ~_is_one_of(columns.identities, only.excluded_identity_keys)
    for column, wanted, unwanted in (
        (columns.cameras, only.camera_ids, only.excluded_camera_ids),
        (columns.tracks, only.track_ids, only.excluded_track_ids),
    ):
        if wanted:
            mask &= _is_one_of(column, wanted)
        if unwanted:
            mask &= ~_is_one_of(column, unwanted)
    if only.captured_after is not None:
        mask &= columns.times >= microseconds(only.captured_after)
    if only.captured_before is not None:
        mask &= (columns.times < microseconds(only.captured_before)) & (columns.times != NO_TIME)
    if only.excluded_sighting is not None:
        mask &= ~_is_near(columns, only.excluded_sighting)
    return mask


def _is_one_of(column: Column[Value], values: frozenset[Value]) -> Mask:
    return column.is_in([column.code_of[value] for value in values if value in column.code_of])


def _is_near(columns: Columns, sighting: Sighting) -> Mask:
    """Mark what the camera of a sighting saw near its time, both ends included."""
    seen, within = microseconds(sighting.captured_at), round(sighting.within_s * 1_000_000)
    first, last = max(seen - within, NO_TIME + 1), min(seen + within, np.iinfo(np.int64).max)
    mask = _is_one_of(columns.cameras, frozenset([sighting.camera_id]))
    return mask & (columns.times >= first) & (columns.times <= last)
