"""Identities: make, describe, find and list people, and the timeline of their visits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session, selectinload

from service.audit.entries import Person, record
from service.errors import IdentityExists
from service.gallery.conditions import identity_conditions, item_conditions, of_cameras
from service.gallery.items import find_identity, identity_named
from service.gallery.selection import ItemFilters, Selection
from service.keys.callers import Cameras
from service.store.store import Store
from service.store.tables import Attribute, Identity, Item, new_id, now


@dataclass(frozen=True)
class IdentitySummary:
    """An identity with its attributes, and a summary of the items that the caller sees.

    Attributes:
        row: the identity.
        created_at: when the identity was made, or for a caller who is limited to some cameras, when the first
            item of these was enrolled: the caller does not learn that another camera was earlier.
        num_items: number of items.
        first_seen: the earliest time of an item.
        last_seen: the latest time of an item.
        cameras: the cameras of the items.
    """

    row: Identity
    created_at: datetime
    num_items: int = 0
    first_seen: datetime | None = None
    last_seen: datetime | None = None
    cameras: list[str] = field(default_factory=list)

    def with_sightings(
        self, camera_id: str | None, num_items: int, first: datetime | None, last: datetime | None
    ) -> "IdentitySummary":
        """Return a summary that includes the items of one more camera."""
        return IdentitySummary(
            self.row,
            self.created_at,
            self.num_items + num_items,
            min((time for time in (self.first_seen, first) if time), default=None),
            max((time for time in (self.last_seen, last) if time), default=None),
            sorted([*self.cameras, camera_id]) if camera_id is not None else self.cameras,
        )


@dataclass(frozen=True)
class Visit:
    """Sightings of an identity by one camera, with short gaps between them.

    Attributes:
        camera_id: the camera, or None if it is unknown.
        first: time of the first sighting.
        last: time of the last sighting.
        num_items: number of sightings.
        item_id: the item of the first sighting.
        gap_s: seconds since the end of the last visit to this camera, or None for the first visit.
    """

    camera_id: str | None
    first: datetime
    last: datetime
    num_items: int
    item_id: str
    gap_s: float | None


def create(store: Store, identity_id: str | None, description: Mapping[str, Any]) -> IdentitySummary:
    """Make an identity that has no items yet.

    Args:
        store: the gallery.
        identity_id: the id; None for a random id.
        description: as for `describe`.

    Raises:
        IdentityExists: there is an identity of this id.
    """
    with store.change() as change:
        if identity_id is not None and identity_named(change.session, identity_id) is not None:
            raise IdentityExists(identity_id)
        identity = Identity(id=identity_id or new_id(), created_at=now(), attributes=[])
        _describe(identity, description)
        change.session.add(identity)
        record([Person("target", identity.id)], fields=sorted(description))
    return IdentitySummary(identity, identity.created_at)


def find(store: Store, identity_id: str, cameras: Cameras = None) -> IdentitySummary:
    """Return an identity with a summary of its items, of these cameras if the caller is limited to some.

    Raises:
        IdentityNotFound: there is no such identity, or none of these cameras has seen it.
    """
    with store.read() as session:
        (summary,) = _summaries(session, [find_identity(session, identity_id, cameras)], cameras)
    return summary


def list_identities(
    store: Store, among: Selection, limit: int, after: int, name: str = "", cameras: Cameras = None
) -> tuple[list[IdentitySummary], int | None]:
    """Return a page of identities in the order in which they were made.

    A caller who is limited to some cameras gets them in the order of the first items that it sees. Otherwise
    the order would tell whom another camera had seen before.

    Args:
        store: the gallery.
        among: which identities. If it has conditions for items, an identity needs an item that meets them.
        limit: most identities of the page.
        after: the place after which the page begins, as this function has returned it.
        name: a part of the name, in any case; empty for every name.
        cameras: the cameras that the caller is limited to; `among` must be within them.

    Returns:
        The identities, with summaries of all items that the caller sees, and the place after which the
        next page begins, or None on the last page.
    """
    placed, place = _placed(cameras)
    statement = placed.options(selectinload(Identity.attributes)).where(place > after)
    statement = statement.where(*identity_conditions(among, Identity.key))
    if name:
        statement = statement.where(Identity.name.icontains(name, autoescape=True))
    with store.read() as session:
        if seen := item_conditions(session, among, store.settings.track_gap_s):
            statement = statement.where(Identity.key.in_(select(Item.identity_key).where(*seen)))
        rows = session.execute(statement.order_by(place).limit(limit + 1)).all()
        summaries = _summaries(session, [row for row, _ in rows[:limit]], cameras)
    return summaries, None if len(rows) <= limit else rows[limit - 1][1]


def _placed(cameras: Cameras) -> tuple[Select[Identity, int], ColumnElement[int]]:
    """Return a statement for the identities that a caller sees, and the column of their places in lists."""
    if cameras is None:
        return select(Identity, Identity.key), Identity.key.expression
    first = func.min(Item.slot).label("place")
    seen = select(Item.identity_key, first).where(*of_cameras(cameras)).group_by(Item.identity_key).subquery()
    return select(Identity, seen.c.place).join(seen, seen.c.identity_key == Identity.key), seen.c.place


def describe(store: Store, identity_id: str, description: Mapping[str, Any]) -> IdentitySummary:
    """Change the description of an identity, which is then kept even without items.

    Args:
        store: the gallery.
        identity_id: the identity.
        description: new values of name, notes or attributes; a field that is absent stays as it is.

    Raises:
        IdentityNotFound: there is no such identity.
    """
    with store.change() as change:
        identity = find_identity(change.session, identity_id)
        _describe(identity, description)
        change.session.flush()
        record([Person("target", identity.id)], fields=sorted(description))
        (summary,) = _summaries(change.session, [identity])
    return summary


@dataclass(frozen=True)
class Timeline:
    """A page of the visits of an identity.

    Attributes:
        identity_id: the name of the identity as it is stored.
        visits: in the order of their beginnings.
        num_untimed: the number of items of the identity without a time, which are in no visit.
        last: when the last visit of the page begins, and the slot of its first item; None on the last page.
    """

    identity_id: str
    visits: list[Visit]
    num_untimed: int
    last: tuple[datetime, int] | None


def timeline(
    store: Store,
    identity_id: str,
    among: ItemFilters,
    visit_gap_s: float,
    limit: int,
    after: tuple[datetime, int] | None = None,
    cameras: Cameras = None,
) -> Timeline:
    """Return a page of the visits of an identity in the order of their beginnings.

    Args:
        store: the gallery.
        identity_id: the identity.
        among: which of its items are sightings; within `cameras`.
        visit_gap_s: a longer gap between two sightings, in seconds, begins a new visit.
        limit: most visits of the page.
        after: the `last` of the page before; None for the first page.
        cameras: the cameras that the caller is limited to.

    Raises:
        IdentityNotFound: there is no such identity, or none of these cameras has seen it.
    """
    with store.read() as session:
        identity = find_identity(session, identity_id, cameras)
        wanted = item_conditions(session, among, store.settings.track_gap_s)
        seen = (Item.identity_key == identity.key, *wanted)
        statement = (
            select(Item.camera_id, Item.captured_at, Item.id, Item.slot)
            .where(*seen, Item.captured_at.is_not(None))
            .order_by(Item.captured_at, Item.slot)
        )
        rows = session.execute(statement).all()
        untimed = select(func.count()).where(*seen, Item.captured_at.is_(None))
        num_untimed = session.scalar(untimed) or 0
    slots = {row.id: row.slot for row in rows}
    found = visits([(row.camera_id, row.captured_at, row.id) for row in rows if row.captured_at], visit_gap_s)
    left = [visit for visit in found if after is None or (visit.first, slots[visit.item_id]) > after]
    shown = left[:limit]
    last = (shown[-1].first, slots[shown[-1].item_id]) if len(left) > limit else None
    return Timeline(identity.id, shown, num_untimed, last)


def visits(seen: Iterable[tuple[str | None, datetime, str]], visit_gap_s: float) -> list[Visit]:
    """Group sightings into visits.

    Args:
        seen: (camera, time, item id) of each sighting, in the order of the times.
        visit_gap_s: a longer gap between two sightings of a camera, in seconds, begins a new visit.
    """
    found: list[Visit] = []
    newest: dict[str | None, int] = {}
    for camera_id, at, item_id in seen:
        place = newest.get(camera_id)
        gap_s = None if place is None else (at - found[place].last).total_seconds()
        if place is None or gap_s is None or gap_s > visit_gap_s:
            newest[camera_id] = len(found)
            found.append(Visit(camera_id, at, at, 1, item_id, gap_s))
        else:
            old = found[place]
            found[place] = Visit(camera_id, old.first, at, old.num_items + 1, old.item_id, old.gap_s)
    return found


def _summaries(session: Session, rows: Sequence[Identity], cameras: Cameras = None) -> list[IdentitySummary]:
    seen = (Item.identity_key.in_([row.key for row in rows]), *of_cameras(cameras))
    statement = (
        select(
            Item.identity_key,
            Item.camera_id,
            func.count(),
            func.min(Item.captured_at),
            func.max(Item.captured_at),
        )
        .where(*seen)
        .group_by(Item.identity_key, Item.camera_id)
    )
    known_since = {row.key: row.created_at for row in rows}
    if cameras is not None:
        enrolled = select(Item.identity_key, func.min(Item.created_at)).where(*seen)
        known_since |= dict(session.execute(enrolled.group_by(Item.identity_key)).all())
    summaries = {row.key: IdentitySummary(row, known_since[row.key]) for row in rows}
    for key, camera_id, num_items, first, last in session.execute(statement):
        summaries[key] = summaries[key].with_sightings(camera_id, num_items, first, last)
    return list(summaries.values())


def _describe(identity: Identity, description: Mapping[str, Any]) -> None:
    identity.is_kept = True
    for field_name in description.keys() & {"name", "notes"}:
        setattr(identity, field_name, description[field_name])
    if "attributes" in description:
        set_attributes(identity, description["attributes"] or {})


def set_attributes(identity: Identity, attributes: Mapping[str, str]) -> None:
    """Set the attributes of an identity; attributes that are not given are deleted."""
    rows = {row.name: row for row in identity.attributes}
    for name in rows.keys() - attributes.keys():
        identity.attributes.remove(rows[name])
    for name, value in attributes.items():
        if name in rows:
            rows[name].value = value
        else:
            identity.attributes.append(Attribute(name=name, value=value))
