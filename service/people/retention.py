"""Retention: erase items that are older than the settings allow.

The age of an item counts from its capture, or from its enrolment if the time of the capture is unknown.
"""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, false, func, or_, select

from service.people.erasure import erase_items, purge_traces
from service.settings import Settings
from service.store.store import Store
from service.store.tables import Item

ITEMS_PER_PAGE = 1_000


def erase_expired(store: Store, moment: datetime) -> int:
    """Erase the items that are too old at `moment`, page by page, and return their number.

    Each page is one transaction. An item with a time in the future is not too old. Without a limit in the
    settings no item is too old.

    Raises:
        DatabaseUnavailable: the items are erased, but the purge of their traces is not done yet.
    """
    limits = _limits(store.settings, moment)
    expired = select(Item.slot).where(or_(false(), *limits)).order_by(Item.slot).limit(ITEMS_PER_PAGE)
    num = 0
    while limits and not store.stopping.is_set():
        with store.read() as session:
            if session.scalar(expired.limit(1)) is None:
                break
        with store.change(makes_room=True) as change:
            slots = change.session.scalars(expired).all()
            if slots:
                erase_items(change, slots, "retention")
        num += len(slots)
    purge_traces(store)
    return num


def _limits(settings: Settings, moment: datetime) -> list[ColumnElement[bool]]:
    """Return SQL conditions for items that are too old; such an item meets at least one of them."""
    seen = func.coalesce(Item.captured_at, Item.created_at)
    by_camera = settings.retention_days_by_camera
    limits = [
        and_(Item.camera_id == camera_id, seen < moment - timedelta(days=days))
        for camera_id, days in by_camera.items()
    ]
    if settings.retention_days is not None:
        others = or_(Item.camera_id.is_(None), Item.camera_id.not_in(by_camera))
        limits.append(and_(others, seen < moment - timedelta(days=settings.retention_days)))
    return limits
