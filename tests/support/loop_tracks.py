"""The slow, obvious twin of tracks: one sighting after the other, as a reader would tell them apart."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple


class Seen(NamedTuple):
    """Who saw an item when, under which track id."""

    camera_id: str | None
    track_id: str | None
    captured_at: datetime | None


def loop_tracks(items: Mapping[int, Seen], gap_s: float) -> dict[int, frozenset[int]]:
    """Return for each item, by its number, the numbers of all items on its track."""
    tracks: dict[int, frozenset[int]] = {}
    for number, seen in items.items():
        if seen.track_id is None:
            tracks[number] = frozenset([number])
            continue
        own = [other for other, one in items.items() if one[:2] == seen[:2]]
        if seen.captured_at is None:
            tracks[number] = frozenset(other for other in own if items[other].captured_at is None)
            continue
        members = {number}
        while True:
            near = {
                other for other in own if any(_is_near(items[other], items[one], gap_s) for one in members)
            }
            if near <= members:
                break
            members |= near
        tracks[number] = frozenset(members)
    return tracks


def on_track_at(
    items: Mapping[int, Seen], camera_id: str, track_ids: Iterable[str], at: datetime | None, gap_s: float
) -> set[int]:
    """Return the items on these tracks of a camera: all, or those that a sighting at a time would join."""
    found = set()
    for track_id in track_ids:
        if at is None:
            found |= {number for number, seen in items.items() if seen[:2] == (camera_id, track_id)}
        else:
            found |= loop_tracks({**items, -1: Seen(camera_id, track_id, at)}, gap_s)[-1] - {-1}
    return found


def _is_near(one: Seen, other: Seen, gap_s: float) -> bool:
    if one.captured_at is None or other.captured_at is None:
        return False
    return abs((one.captured_at - other.captured_at).total_seconds()) <= gap_s
