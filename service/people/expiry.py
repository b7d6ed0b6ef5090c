"""Expiries, and those that wait for a person: a mass expiry, and any expiry after a jump of the clock.

A wrong clock makes everything look old. So an expiry is held that would erase more than a share of the
gallery, or that goes by a clock that has jumped. The row of `Retention` says so to all processes. A person
confirms what was past its retention as of the time at which the person looked. That is then erased by any
process, and what comes later is judged by itself.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import structlog
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from service.audit.entries import record
from service.errors import NothingHeld
from service.gallery.ages import past_retention
from service.people.erasure import purge_traces
from service.people.retention import erase_expired
from service.people.steadiness import Reading, Record, is_right
from service.settings import Settings
from service.store.changes import newest_change
from service.store.store import Store
from service.store.tables import Change, Item, Retention

logger = structlog.get_logger(__name__)

MAX_UNASKED = 100
"""An expiry of at most so many items is never a mass expiry, whatever their share of the gallery."""

MAX_AHEAD = timedelta(minutes=1)
"""How much later than the present a confirmation may look, because clocks of servers differ a little."""

Reason = Literal["share", "clock"]


@dataclass(frozen=True)
class Hold:
    """An expiry that waits for a person.

    Attributes:
        reason: "share" for a mass expiry, "clock" after a jump of the clock.
        since: when the expiry began to wait.
        as_of: the time at which the items were counted.
        num_items: how many items are past their retention.
        num_gallery: how many items the gallery has.
    """

    reason: Reason
    since: datetime
    as_of: datetime
    num_items: int
    num_gallery: int

    def __str__(self) -> str:
        """Return a sentence for people."""
        what = f"{self.num_items:,} of {self.num_gallery:,} items are past their retention"
        why = (
            "the clock of the machine has jumped, or the service was stopped for long"
            if self.reason == "clock"
            else "so many at once may come from a wrong clock or setting"
        )
        return f"{what} as of {self.as_of:%Y-%m-%dT%H:%M:%SZ}, and none is erased: {why}"


@dataclass(frozen=True)
class _Counted:
    num_items: int
    num_gallery: int
    last_slot: int


class Expiry:
    """The expiries of one process; `hold` is the expiry that waits, as of the last run.

    Args:
        store: the gallery.
    """

    def __init__(self, store: Store) -> None:
        self.hold: Hold | None = None
        self._store = store
        self._baseline: Reading | None = None
        self._accepted_at: datetime | None = None

    def run(self) -> int:
        """Erase what is past its retention and does not have to wait, and return the number of items.

        Raises:
            DatabaseUnavailable: the items are erased, but the purge of their traces is not done yet.
        """
        store = self._store
        num = self._erase_confirmed()
        reading = Reading(store.clock.now(), store.clock.steady_s())
        counted = _count(store, reading.wall)
        before, self.hold = self.hold, self._judge(reading, counted)
        if self.hold is None:
            return num + erase_expired(store, reading.wall, Item.slot <= counted.last_slot)
        if before is None or before.reason != self.hold.reason:
            logger.warning(
                "an expiry waits; look with `reid retention show`, then `reid retention confirm`",
                reason=str(self.hold),
            )
        purge_traces(store)
        return num

    def _judge(self, reading: Reading, counted: _Counted) -> Hold | None:
        """Decide whether the expiry of these items waits, and write the decision down for all processes."""
        settings = self._store.settings
        with self._store.write() as session:
            row = _row(session)
            if row.accepted_at != self._accepted_at:
                self._baseline, self._accepted_at = None, row.accepted_at
            record = _record(session, row)
            is_clock_right = is_right(reading, self._baseline, record, _shortest_s(settings))
            reason = _reason(counted, is_clock_right, settings.retention_max_share)
            if reason is None:
                row.held_since = None
            elif row.held_since is None or reason != row.held_reason:
                row.held_since = reading.wall
            row.held_reason = reason
            if is_clock_right:
                row.checked_at = reading.wall
                self._baseline = self._baseline or reading
            if reason is None or row.held_since is None:
                return None
            return Hold(reason, row.held_since, reading.wall, counted.num_items, counted.num_gallery)

    def _erase_confirmed(self) -> int:
        """Erase what a person has confirmed: what was enrolled and past its retention as of that time.

        A confirmation under other settings is dropped, because the person has seen other items.
        """
        store = self._store
        with store.read() as session:
            confirmed_at, limits = session.execute(
                select(Retention.confirmed_at, Retention.confirmed_limits)
            ).one()
        if confirmed_at is None:
            return 0
        num = 0
        if limits == _limits(store.settings):
            num = erase_expired(store, confirmed_at, Item.created_at <= confirmed_at)
            if store.stopping.is_set():
                return num
        with store.write() as session:
            row = _row(session)
            if row.confirmed_at == confirmed_at:
                row.confirmed_at = row.confirmed_limits = None
        return num


def find_hold(store: Store) -> Hold | None:
    """Return the expiry that waits for a person, with the items counted as of now, or None."""
    with store.read() as session:
        row = session.get_one(Retention, 1)
    if row.held_since is None or row.held_reason is None:
        return None
    moment = store.clock.now()
    counted = _count(store, moment)
    reason: Reason = "clock" if row.held_reason == "clock" else "share"
    return Hold(reason, row.held_since, moment, counted.num_items, counted.num_gallery)


def confirm(store: Store, as_of: datetime) -> int:
    """Let what was past its retention as of this time be erased, and return how many items that is.

    After a jump the clock is accepted as it was at that time. Expiries of later times are judged again.

    Raises:
        NothingHeld: no expiry waits, or it began to wait after `as_of`.
    """
    with store.write() as session:
        row, moment = _row(session), store.clock.now()
        if row.held_since is None:
            raise NothingHeld
        if not row.held_since <= as_of <= moment + MAX_AHEAD:
            raise NothingHeld(is_other=True)
        if row.held_reason == "clock":
            row.accepted_at, row.checked_at = moment, as_of
        row.confirmed_at, row.confirmed_limits = as_of, _limits(store.settings)
        row.held_since = row.held_reason = None
        record(as_of=as_of.isoformat())
    num = _count(store, as_of, Item.created_at <= as_of).num_items
    logger.info("an expiry was confirmed", as_of=as_of.isoformat(), items=num)
    store.has_expiry.set()
    return num


def _reason(counted: _Counted, is_clock_right: bool, max_share: float) -> Reason | None:
    """Return why an expiry has to wait, or None.

    >>> _reason(_Counted(101, 505, 0), True, 0.2), _reason(_Counted(102, 505, 0), True, 0.2)
    (None, 'share')
    """
    if not counted.num_items:
        return None
    if not is_clock_right:
        return "clock"
    most = max(MAX_UNASKED, round(max_share * counted.num_gallery, 6))
    return "share" if counted.num_items > most else None


def _count(store: Store, moment: datetime, *among: ColumnElement[bool]) -> _Counted:
    """Count the items that are past their retention at `moment`, and all items, as of one state."""
    is_past = past_retention(store.settings, moment)
    num = select(func.count()).select_from(Item)
    with store.read() as session:
        last_slot = newest_change(session)
        until = Item.slot <= last_slot
        num_items = 0 if is_past is None else session.scalar(num.where(until, is_past, *among)) or 0
        return _Counted(num_items, session.scalar(num.where(until)) or 0, last_slot)


def _row(session: Session) -> Retention:
    return session.get_one(Retention, 1, with_for_update=True)


def _record(session: Session, row: Retention) -> Record:
    """Return what the database knows of the time: the last check, or else the newest change."""
    checked_at = row.checked_at
    if checked_at is None:
        newest = Change.sequence == newest_change(session)
        checked_at = session.scalar(select(Change.at).where(newest))
    return Record(checked_at, row.held_since if row.held_reason == "clock" else None)


def _shortest_s(settings: Settings) -> float:
    days = [*settings.retention_days_by_camera.values(), settings.retention_days]
    return min((86_400 * one for one in days if one is not None), default=float("inf"))


def _limits(settings: Settings) -> str:
    """Return the limits of the settings as text, to tell whether they have changed."""
    return json.dumps([settings.retention_days, sorted(settings.retention_days_by_camera.items())])
