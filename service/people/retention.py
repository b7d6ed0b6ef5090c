"""Retention: erase items that are older than the settings allow; `service/gallery/ages.py` has the age."""

from datetime import datetime

from sqlalchemy import select

from service.gallery.ages import past_retention
from service.people.erasure import erase_items, purge_traces
from service.store.store import Store
from service.store.tables import Item

ITEMS_PER_PAGE = 1_000


def erase_expired(store: Store, moment: datetime) -> int:
    """Erase the items that are too old at `moment`, page by page, and return their number.

    Each page is one transaction. Without a limit in the settings no item is too old.

    Raises:
        DatabaseUnavailable: the items are erased, but the purge of their traces is not done yet.
    """
    is_past = past_retention(store.settings, moment)
    if is_past is None:
        purge_traces(store)
        return 0
    expired = select(Item.slot).where(is_past).order_by(Item.slot).limit(ITEMS_PER_PAGE)
    num = 0
    while not store.stopping.is_set():
        with store.read() as session:
            if session.scalar(expired.limit(1)) is None:
                break
        with store.change() as change:
            slots = change.session.scalars(expired).all()
            if slots:
                erase_items(change, slots, "retention")
        num += len(slots)
    purge_traces(store)
    return num
