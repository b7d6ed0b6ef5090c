"""Tracks of items by the database, for work that goes beyond the index."""

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from service.index import numbered, times, track_starts
from service.store.tables import Item


def find_tracks(session: Session, among: ColumnElement[bool], gap_s: float) -> dict[int, int]:
    """Return the track of each item, by slot: the slot of the first item of its track.

    Args:
        session: a session that reads.
        among: SQL condition for the items; it must select all items of a camera and a track id, or none,
            because a track is made of neighbours.
        gap_s: seconds; a longer gap between neighbours begins another track.
    """
    columns = (Item.slot, Item.camera_id, Item.track_id, Item.captured_at)
    found = session.execute(
        select(*columns).where(Item.track_id.is_not(None), among).order_by(Item.slot)
    ).all()
    keys = numbered([(camera_id, track_id) for _, camera_id, track_id, _ in found])
    starts = track_starts(keys, times([row.captured_at for row in found]), round(gap_s * 1_000_000))
    return {row.slot: found[start].slot for row, start in zip(found, starts.tolist(), strict=True)}
