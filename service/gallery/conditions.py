"""A selection of items as a filter of the index, and as conditions in SQL."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.gallery.selection import Selection, parse_attributes
from service.index import Filter, Sighting
from service.store.tables import Attribute, Identity, Item


def to_filter(session: Session, selection: Selection) -> Filter:
    """Return the selection as a filter of the index; the filter has keys instead of identity ids."""
    keys: frozenset[int] | None = None
    if selection.identity_id:
        keys = _keys(session, selection.identity_id)
    if selection.attribute:
        described = frozenset(session.scalars(described_keys(parse_attributes(selection.attribute))))
        keys = described if keys is None else keys & described
    return Filter(
        camera_ids=frozenset(selection.camera_id),
        excluded_camera_ids=frozenset(selection.exclude_camera_id),
        captured_after=selection.captured_after,
        captured_before=selection.captured_before,
        identity_keys=keys,
        excluded_identity_keys=_keys(session, selection.exclude_identity_id),
        track_ids=frozenset(selection.track_id),
        excluded_track_ids=frozenset(selection.exclude_track_id),
        excluded_sighting=_sighting(selection),
    )


def conditions(selection: Selection) -> list[ColumnElement[bool]]:
    """Return the selection as SQL conditions; an item is selected if it meets all of them."""
    found = [
        *_among(Item.camera_id, selection.camera_id, selection.exclude_camera_id),
        *_among(Item.track_id, selection.track_id, selection.exclude_track_id),
    ]
    if selection.captured_after is not None:
        found.append(Item.captured_at >= selection.captured_after)
    if selection.captured_before is not None:
        found.append(Item.captured_at < selection.captured_before)
    if selection.identity_id:
        found.append(Item.identity_key.in_(_keys_of(selection.identity_id)))
    if selection.exclude_identity_id:
        found.append(Item.identity_key.not_in(_keys_of(selection.exclude_identity_id)))
    if selection.attribute:
        found.append(Item.identity_key.in_(described_keys(parse_attributes(selection.attribute))))
    if sighting := _sighting(selection):
        found.append(_is_not_near(sighting))
    return found


def _sighting(selection: Selection) -> Sighting | None:
    """Return the sighting near which no items are selected, or None if the selection has none."""
    camera_id, captured_at = selection.query_camera_id, selection.query_captured_at
    if selection.exclude_same_camera_s is None or camera_id is None or captured_at is None:
        return None
    return Sighting(camera_id, captured_at, selection.exclude_same_camera_s)


def _keys(session: Session, identity_ids: Sequence[str]) -> frozenset[int]:
    return frozenset(session.scalars(_keys_of(identity_ids))) if identity_ids else frozenset()


def _keys_of(identity_ids: Sequence[str]) -> Any:
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
    column: InstrumentedAttribute[str | None], included: Sequence[str], excluded: Sequence[str]
) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if included:
        found.append(column.in_(set(included) - set(excluded)))
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
