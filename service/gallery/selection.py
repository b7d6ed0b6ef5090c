"""A selection of items in terms of the API, as a filter of the index and as conditions in SQL."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.index import Filter, Sighting
from service.store.tables import Attribute, Identity, Item


@dataclass(frozen=True)
class Selection:
    """Which items are selected: an item must meet every field that is not empty.

    `Filter` says whether an item without a camera, track or time meets a field.
    """

    camera_ids: frozenset[str] = frozenset()
    excluded_camera_ids: frozenset[str] = frozenset()
    captured_after: datetime | None = None
    """At this time or later."""
    captured_before: datetime | None = None
    """Before this time."""
    identity_ids: frozenset[str] = frozenset()
    excluded_identity_ids: frozenset[str] = frozenset()
    track_ids: frozenset[str] = frozenset()
    excluded_track_ids: frozenset[str] = frozenset()
    attributes: frozenset[tuple[str, str]] = field(default=frozenset())
    """Attributes, as names and values, that the identity of the item must all have."""
    excluded_sighting: Sighting | None = None
    """Items of this camera near this time are not selected."""


def to_filter(session: Session, selection: Selection) -> Filter:
    """Return the selection as a filter of the index; the filter has keys instead of identity ids."""
    keys: frozenset[int] | None = None
    if selection.identity_ids:
        keys = _keys(session, selection.identity_ids)
    if selection.attributes:
        described = frozenset(session.scalars(described_keys(selection.attributes)))
        keys = described if keys is None else keys & described
    excluded = selection.excluded_identity_ids
    return Filter(
        camera_ids=selection.camera_ids,
        excluded_camera_ids=selection.excluded_camera_ids,
        captured_after=selection.captured_after,
        captured_before=selection.captured_before,
        identity_keys=keys,
        excluded_identity_keys=_keys(session, excluded) if excluded else frozenset(),
        track_ids=selection.track_ids,
        excluded_track_ids=selection.excluded_track_ids,
        excluded_sighting=selection.excluded_sighting,
    )


def conditions(selection: Selection) -> list[ColumnElement[bool]]:
    """Return the selection as SQL conditions, all of which hold for the selected items alone."""
    found = [
        *_among(Item.camera_id, selection.camera_ids, selection.excluded_camera_ids),
        *_among(Item.track_id, selection.track_ids, selection.excluded_track_ids),
    ]
    if selection.captured_after is not None:
        found.append(Item.captured_at >= selection.captured_after)
    if selection.captured_before is not None:
        found.append(Item.captured_at < selection.captured_before)
    if selection.identity_ids:
        found.append(Item.identity_key.in_(_keys_of(selection.identity_ids)))
    if selection.excluded_identity_ids:
        found.append(Item.identity_key.not_in(_keys_of(selection.excluded_identity_ids)))
    if selection.attributes:
        found.append(Item.identity_key.in_(described_keys(selection.attributes)))
    if selection.excluded_sighting is not None:
        found.append(_is_not_near(selection.excluded_sighting))
    return found


def _keys(session: Session, identity_ids: frozenset[str]) -> frozenset[int]:
    return frozenset(session.scalars(_keys_of(identity_ids)))


def _keys_of(identity_ids: frozenset[str]) -> Any:
    return select(Identity.key).where(Identity.id.in_(identity_ids))


def described_keys(attributes: frozenset[tuple[str, str]]) -> Any:
    """Select the keys of the identities that have every one of these attributes."""
    return (
        select(Attribute.identity_key)
        .where(tuple_(Attribute.name, Attribute.value).in_(sorted(attributes)))
        .group_by(Attribute.identity_key)
        .having(func.count() == len(attributes))
    )


def _among(
    column: InstrumentedAttribute[str | None], included: frozenset[str], excluded: frozenset[str]
) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if included:
        found.append(column.in_(included - excluded))
    elif excluded:
        found.append(or_(column.is_(None), column.not_in(excluded)))
    return found


def _is_not_near(sighting: Sighting) -> ColumnElement[bool]:
    """Return the SQL condition for items that are not near the sighting; both ends of its span are near."""
    within = timedelta(microseconds=round(sighting.within_s * 1_000_000))
    return or_(
        Item.camera_id.is_(None),
        Item.camera_id != sighting.camera_id,
        Item.captured_at.is_(None),
        *_outside(sighting.captured_at, within),
    )


def _outside(seen: datetime, within: timedelta) -> list[ColumnElement[bool]]:
    """Return SQL conditions for `captured_at` outside `seen` +/- `within`; one of them must hold.

    A bound outside the range of datetime is dropped.
    """
    found: list[ColumnElement[bool]] = []
    if seen - datetime.min.replace(tzinfo=seen.tzinfo) >= within:
        found.append(Item.captured_at < seen - within)
    if datetime.max.replace(tzinfo=seen.tzinfo) - seen >= within:
        found.append(Item.captured_at > seen + within)
    return found
