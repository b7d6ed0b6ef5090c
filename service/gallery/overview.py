"""What a gallery holds, counted: by camera, in all, and by the day of enrolment."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import ColumnElement, case, distinct, func, select
from sqlalchemy.orm import Session

from service.gallery.conditions import conditions
from service.gallery.selection import Selection
from service.keys.callers import Cameras
from service.store.store import Store
from service.store.tables import Identity, Item

_NUM_IDENTITIES = func.count(distinct(Item.identity_key))
_NUM_CAMERAS = func.count(distinct(Item.camera_id))
_FIRST_SEEN, _LAST_SEEN = func.min(Item.captured_at), func.max(Item.captured_at)


@dataclass(frozen=True)
class CameraSummary:
    """A camera with the numbers of its items and identities, and the times of its first and last item."""

    camera_id: str
    num_items: int
    num_identities: int
    first_seen: datetime | None
    last_seen: datetime | None


@dataclass(frozen=True)
class Day:
    """How many items were enrolled on a day in UTC, of how many identities, by how many cameras."""

    day: date
    num_items: int = 0
    num_identities: int = 0
    num_cameras: int = 0


@dataclass(frozen=True)
class Counts:
    """How much there is in all, and `days` of enrolments, the oldest day first."""

    num_items: int
    num_identities: int
    num_cameras: int
    first_seen: datetime | None
    last_seen: datetime | None
    days: list[Day]


def list_cameras(store: Store, among: Selection) -> list[CameraSummary]:
    """Return the cameras of the selected items, sorted by their names.

    Items without a camera do not count.
    """
    with store.read() as session:
        wanted = conditions(session, among, store.settings.track_gap_s)
        statement = (
            select(Item.camera_id, func.count(), _NUM_IDENTITIES, _FIRST_SEEN, _LAST_SEEN)
            .where(*wanted)
            .group_by(Item.camera_id)
        )
        found = [
            CameraSummary(camera_id, num_items, num_identities, first, last)
            for camera_id, num_items, num_identities, first, last in session.execute(statement)
            if camera_id is not None
        ]
    return sorted(found, key=lambda camera: camera.camera_id)


def count_gallery(store: Store, num_days: int, cameras: Cameras = None) -> Counts:
    """Count the items, and what they are of.

    Args:
        store: the gallery.
        num_days: how many days of enrolments to count, up to today.
        cameras: the cameras that the caller is limited to. Such a caller is told of no identity that none of
            them has seen; others are told of identities without items too.
    """
    among = Selection().within(cameras)
    with store.read() as session:
        wanted = conditions(session, among, store.settings.track_gap_s)
        in_all = select(func.count(), _NUM_IDENTITIES, _NUM_CAMERAS, _FIRST_SEEN, _LAST_SEEN)
        num_items, num_identities, num_cameras, first, last = session.execute(
            in_all.select_from(Item).where(*wanted)
        ).one()
        if cameras is None:
            num_identities = session.scalar(select(func.count()).select_from(Identity)) or 0
        days = _count_days(session, wanted, _days_to(store.clock.now(), num_days))
    return Counts(num_items, num_identities, num_cameras, first, last, days)


def _days_to(now: datetime, num: int) -> list[date]:
    today = now.astimezone(UTC).date()
    return [today - timedelta(days=ago) for ago in reversed(range(num))]


def _count_days(session: Session, wanted: Sequence[ColumnElement[bool]], days: Sequence[date]) -> list[Day]:
    """Count the items of each day; the days follow each other, and the last one has no end."""
    if not days:
        return []
    starts = [datetime.combine(day, time(), UTC) for day in days]
    place = case(*((Item.created_at >= starts[at], at) for at in reversed(range(len(days)))))
    statement = (
        select(place, func.count(), _NUM_IDENTITIES, _NUM_CAMERAS)
        .where(Item.created_at >= starts[0], *wanted)
        .group_by(place)
    )
    counted = {at: numbers for at, *numbers in session.execute(statement)}
    return [Day(day, *counted.get(at, ())) for at, day in enumerate(days)]
