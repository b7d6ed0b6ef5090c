"""What happens on /identities: people as the gallery knows them, described by whoever runs it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from service.errors import IdentityExists
from service.gallery.items import find_identity
from service.gallery.selection import described_keys
from service.store.store import Store
from service.store.tables import Attribute, Identity, Item, new_id, now


@dataclass(frozen=True)
class Known:
    """An identity with its attributes, and what its items say of it."""

    row: Identity
    num_items: int = 0
    first_seen: datetime | None = None
    last_seen: datetime | None = None
    cameras: list[str] = field(default_factory=list)

    def with_sightings(
        self, camera_id: str | None, num_items: int, first: datetime | None, last: datetime | None
    ) -> "Known":
        """Return the same with items of one more camera."""
        return Known(
            self.row,
            self.num_items + num_items,
            min((time for time in (self.first_seen, first) if time), default=None),
            max((time for time in (self.last_seen, last) if time), default=None),
            sorted([*self.cameras, camera_id]) if camera_id is not None else self.cameras,
        )


@dataclass(frozen=True)
class Visit:
    """Sightings by one camera, none of which is long after the one before.

    `gap_s` are the seconds since the visit before to the same camera; `item_id` is the first sighting.
    """

    camera_id: str | None
    first: datetime
    last: datetime
    num_items: int
    item_id: str
    gap_s: float | None


def create(store: Store, identity_id: str | None, description: Mapping[str, Any]) -> Known:
    """Make an identity that is there before any crop of it; `description` is as for `describe`.

    Raises:
        IdentityExists: there is one of this id.
    """
    with store.change() as change:
        if identity_id is not None and _row(change.session, identity_id) is not None:
            raise IdentityExists(identity_id)
        identity = Identity(id=identity_id or new_id(), created_at=now(), attributes=[])
        _describe(identity, description)
        change.session.add(identity)
    return Known(identity)


def find(store: Store, identity_id: str) -> Known:
    """Return an identity.

    Raises:
        IdentityNotFound: there is none.
    """
    with store.read() as session:
        (known,) = _known(session, [find_identity(session, identity_id)])
    return known


def list_identities(
    store: Store, limit: int, after: int, name: str, attributes: frozenset[tuple[str, str]]
) -> tuple[list[Known], int | None]:
    """Return the next identities in the order they were made, and the key to go on after.

    `name` is looked for within names, capital letters or not; all of the attributes must be there.
    """
    statement = select(Identity).options(selectinload(Identity.attributes)).where(Identity.key > after)
    if name:
        statement = statement.where(Identity.name.icontains(name, autoescape=True))
    if attributes:
        statement = statement.where(Identity.key.in_(described_keys(attributes)))
    with store.read() as session:
        rows = session.scalars(statement.order_by(Identity.key).limit(limit + 1)).all()
        known = _known(session, rows[:limit])
    return known, None if len(rows) <= limit else rows[limit - 1].key


def describe(store: Store, identity_id: str, description: Mapping[str, Any]) -> Known:
    """Change what is said of an identity: of name, notes and attributes those that are given.

    Raises:
        IdentityNotFound: there is none.
    """
    with store.change() as change:
        identity = find_identity(change.session, identity_id)
        _describe(identity, description)
        change.session.flush()
        (known,) = _known(change.session, [identity])
    return known


def timeline(store: Store, identity_id: str, visit_gap_s: float) -> tuple[list[Visit], int]:
    """Return the visits of an identity by their beginnings, and how many of its items have no time.

    Raises:
        IdentityNotFound: there is none.
    """
    with store.read() as session:
        key = find_identity(session, identity_id).key
        statement = (
            select(Item.camera_id, Item.captured_at, Item.id)
            .where(Item.identity_key == key, Item.captured_at.is_not(None))
            .order_by(Item.captured_at, Item.slot)
        )
        seen = [(camera_id, at, item_id) for camera_id, at, item_id in session.execute(statement) if at]
        untimed = select(func.count()).where(Item.identity_key == key, Item.captured_at.is_(None))
        num_untimed = session.scalar(untimed) or 0
    return visits(seen, visit_gap_s), num_untimed


def visits(seen: Iterable[tuple[str | None, datetime, str]], visit_gap_s: float) -> list[Visit]:
    """Make visits of sightings (camera, time, item) in the order of their times."""
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


def _row(session: Session, identity_id: str) -> Identity | None:
    statement = select(Identity).options(selectinload(Identity.attributes)).where(Identity.id == identity_id)
    return session.scalar(statement)


def _known(session: Session, rows: Sequence[Identity]) -> list[Known]:
    statement = (
        select(
            Item.identity_key,
            Item.camera_id,
            func.count(),
            func.min(Item.captured_at),
            func.max(Item.captured_at),
        )
        .where(Item.identity_key.in_([row.key for row in rows]))
        .group_by(Item.identity_key, Item.camera_id)
    )
    known = {row.key: Known(row) for row in rows}
    for key, camera_id, num_items, first, last in session.execute(statement):
        known[key] = known[key].with_sightings(camera_id, num_items, first, last)
    return list(known.values())


def _describe(identity: Identity, description: Mapping[str, Any]) -> None:
    identity.is_kept = True
    for word in description.keys() & {"name", "notes"}:
        setattr(identity, word, description[word])
    if "attributes" in description:
        set_attributes(identity, description["attributes"] or {})


def set_attributes(identity: Identity, attributes: Mapping[str, str]) -> None:
    """Let an identity have these attributes and no others."""
    rows = {row.name: row for row in identity.attributes}
    for name in rows.keys() - attributes.keys():
        identity.attributes.remove(rows[name])
    for name, value in attributes.items():
        if name in rows:
            rows[name].value = value
        else:
            identity.attributes.append(Attribute(name=name, value=value))
