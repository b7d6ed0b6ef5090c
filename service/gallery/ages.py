"""The age of an item: which times of capture are believed, and which items are past their retention.

Cameras without a battery begin at 1970 after a power cut, and a wrong setting gives a time in the future.
Such a time is stored as it came. Retention does not go by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from model.data.names import normalise_name
from service.gallery.conditions import spellings
from service.settings import Settings
from service.store.tables import Item, Retention

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""A crop that was captured before this time comes from a camera whose clock is wrong."""

MAX_AHEAD = timedelta(days=1)
"""A crop that was captured later than this after the present comes from a camera whose clock is wrong."""

WarningCode = Literal["implausible_time", "past_retention", "unknown_encoding"]


@dataclass(frozen=True)
class Warned:
    """A warning about an item that was taken.

    Attributes:
        position: of the image in its request, from 0.
        name: of the file of the image.
        code: the kind of warning.
        detail: what is wrong, and what to do.
    """

    position: int
    name: str
    code: WarningCode
    detail: str


def is_plausible(captured_at: datetime, moment: datetime) -> bool:
    """Tell whether a crop can have been captured at this time, if `moment` is the present.

    >>> is_plausible(datetime(1970, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    False
    """
    return EARLIEST <= captured_at <= moment + MAX_AHEAD


def enrolled_at(session: Session, moment: datetime) -> datetime:
    """Return the time of an enrolment at `moment`, which is the present by the clock of the machine.

    A clock that was set back makes no new item older than the last time at which the clock was right. Else
    the item would be past its retention as soon as the clock is right again.
    """
    checked_at = session.scalar(select(Retention.checked_at))
    return moment if checked_at is None else max(moment, checked_at)


def limit_days(settings: Settings, camera_id: str | None) -> float | None:
    """Return after how many days the items of a camera are erased, or None if they are never erased."""
    by_camera, others = settings.retention_days_by_camera, settings.retention_days
    return others if camera_id is None else by_camera.get(normalise_name(camera_id), others)


def past_retention(settings: Settings, moment: datetime) -> ColumnElement[bool] | None:
    """Return the SQL condition for items that are past their retention at `moment`; None without a limit.

    The age of an item counts from its capture or from its enrolment, whichever was earlier. A time of capture
    that is not believed does not count. A time in the future is later than the enrolment, so only times
    before `EARLIEST` have to be left out.
    """
    limits = [
        and_(Item.camera_id.in_(spellings([camera_id])), _is_before(moment - timedelta(days=days)))
        for camera_id, days in settings.retention_days_by_camera.items()
    ]
    if settings.retention_days is not None:
        others = or_(
            Item.camera_id.is_(None), Item.camera_id.not_in(spellings(settings.retention_days_by_camera))
        )
        limits.append(and_(others, _is_before(moment - timedelta(days=settings.retention_days))))
    return or_(*limits) if limits else None


def warn(items: Sequence[Item], names: Sequence[str], settings: Settings, moment: datetime) -> list[Warned]:
    """Return the warnings about the times of these items.

    Args:
        items: the items of a request, in the order of its images.
        names: the name of the file of each image.
        settings: have the retention.
        moment: the present.
    """
    found = []
    for position, (item, name) in enumerate(zip(items, names, strict=True)):
        if item.captured_at is None:
            continue
        if not is_plausible(item.captured_at, moment):
            detail = _implausible(item.captured_at, moment)
            found.append(Warned(position, name, "implausible_time", detail))
        elif detail := _past(item.camera_id, item.captured_at, settings, moment):
            found.append(Warned(position, name, "past_retention", detail))
    return found


def _is_before(limit: datetime) -> ColumnElement[bool]:
    """Return the SQL condition for items whose enrolment, or believed capture, was before `limit`."""
    return or_(Item.created_at < limit, and_(Item.captured_at >= EARLIEST, Item.captured_at < limit))


def _implausible(captured_at: datetime, moment: datetime) -> str:
    given = f"captured_at {captured_at.isoformat()} is "
    why = (
        f"before {EARLIEST.date()}"
        if captured_at < EARLIEST
        else f"more than a day ahead of the clock of the service, which says {moment:%Y-%m-%dT%H:%MZ}"
    )
    return (
        f"{given}{why}; the crop is taken, and its retention counts from its enrolment; set the clock of the "
        "camera, and correct the item with PATCH /gallery/{item_id}"
    )


def _past(camera_id: str | None, captured_at: datetime, settings: Settings, moment: datetime) -> str:
    days = limit_days(settings, camera_id)
    if days is None or captured_at >= moment - timedelta(days=days):
        return ""
    return (
        f"captured_at {captured_at.isoformat()} is longer ago than the retention of {days:g} days; the crop "
        "is taken, and the next expiry erases it; if it is to stay, correct its time or raise "
        "REID_RETENTION_DAYS or REID_RETENTION_DAYS_BY_CAMERA"
    )
