"""Erase the items that are past their retention. `service/gallery/ages.py` tells which items these are.

`service/people/expiry.py` tells when an expiry may begin.
"""

from datetime import datetime

import structlog
from sqlalchemy import ColumnElement, select

from service.audit.entries import Entry, audited
from service.audit.secret import open_secret
from service.gallery.ages import past_retention
from service.people.erasure import erase_items, purge_traces
from service.store.store import Store
from service.store.tables import Item

logger = structlog.get_logger(__name__)

ITEMS_PER_PAGE = 1_000
BY_ITSELF = "the service"


def erase_expired(store: Store, moment: datetime, *among: ColumnElement[bool]) -> int:
    """Erase the items that are too old at `moment`, page by page, and return their number.

    Each page is one transaction. Without a limit in the settings no item is too old.

    Args:
        store: the gallery.
        moment: the time as of which items are too old.
        among: SQL conditions; only items that meet all of them are erased.

    Raises:
        DatabaseUnavailable: the items are erased, but the purge of their traces is not done yet.
    """
    is_past = past_retention(store.settings, moment)
    if is_past is None:
        purge_traces(store)
        return 0
    expired = select(Item.slot).where(is_past, *among).order_by(Item.slot).limit(ITEMS_PER_PAGE)
    num = 0
    while not store.stopping.is_set():
        with store.read() as session:
            if session.scalar(expired.limit(1)) is None:
                break
        entry = Entry(store.clock.now(), "expire", BY_ITSELF, BY_ITSELF)
        with audited(entry), store.change(makes_room=True) as change:
            slots = change.session.scalars(expired).all()
            if slots:
                erase_items(change, open_secret(store.settings), slots, "retention")
        num += len(slots)
    if num:
        logger.info("items that were past their retention are erased", items=num)
    purge_traces(store)
    return num
