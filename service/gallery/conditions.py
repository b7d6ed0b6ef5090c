"""A selection of items as a filter of the index, and as conditions in SQL."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Double, and_, case, cast, func, literal, not_, or_, select, true, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from model.data.names import normalise_name, unicode_forms
from service.gallery.selection import ATTRIBUTES, NUMBER, ItemFilters, Selection, parse_attributes
from service.index import CameraTracks, Filter, Sighting
from service.keys.callers import Cameras
from service.serving.tracks import find_tracks
from service.store.tables import Attribute, Identity, Item


def to_filter(session: Session, selection: Selection) -> Filter:
    """Return the selection as a filter of the index; the filter has keys instead of identity ids."""
    keys: frozenset[int] | None = None
    if selection.identity_id:
        keys = _keys(session, selection.identity_id)
    if any(getattr(selection, field) for field in ATTRIBUTES):
        described = select(Identity.key).where(*_described(selection, Identity.key))
        found = frozenset(session.scalars(described))
        keys = found if keys is None else keys & found
    tracks = _tracks(selection)
    return Filter(
        camera_ids=spellings(selection.camera_id),
        excluded_camera_ids=spellings(selection.exclude_camera_id),
        captured_after=selection.captured_after,
        captured_before=selection.captured_before,
        identity_keys=keys,
        excluded_identity_keys=_keys(session, selection.exclude_identity_id),
        track_ids=spellings(selection.track_id),
        excluded_track_ids=spellings(selection.exclude_track_id if tracks is None else ()),
        excluded_tracks=tracks,
        excluded_sighting=_sighting(selection),
    )


def conditions(session: Session, selection: Selection, track_gap_s: float) -> list[ColumnElement[bool]]:
    """Return the selection as SQL conditions; an item is selected if it meets all of them.

    Args:
        session: a session that reads.
        selection: the filters.
        track_gap_s: as for `find_tracks`.
    """
    return [
        *item_conditions(session, selection, track_gap_s),
        *identity_conditions(selection, Item.identity_key),
    ]


def item_conditions(session: Session, filters: ItemFilters, track_gap_s: float) -> list[ColumnElement[bool]]:
    """Return the SQL conditions for what cameras know of an item; none if all items pass."""
    tracks = _tracks(filters)
    found = [
        *_among(Item.camera_id, filters.camera_id, filters.exclude_camera_id),
        *_among(Item.track_id, filters.track_id, filters.exclude_track_id if tracks is None else ()),
    ]
    if tracks is not None:
        found.append(_is_on_none(session, tracks, track_gap_s))
    if filters.captured_after is not None:
        found.append(Item.captured_at >= filters.captured_after)
    if filters.captured_before is not None:
        found.append(Item.captured_at < filters.captured_before)
    if sighting := _sighting(filters):
        found.append(_is_not_near(sighting))
    return found


def identity_conditions(selection: Selection, key: InstrumentedAttribute[int]) -> list[ColumnElement[bool]]:
    """Return the SQL conditions for an identity, whose key is in the column `key`; none if all pass."""
    found = _described(selection, key)
    if selection.identity_id:
        found.append(key.in_(_keys_of(selection.identity_id)))
    if selection.exclude_identity_id:
        found.append(key.not_in(_keys_of(selection.exclude_identity_id)))
    return found


def _described(selection: Selection, key: InstrumentedAttribute[int]) -> list[ColumnElement[bool]]:
    """Return the SQL conditions for the attributes of an identity."""
    found: list[ColumnElement[bool]] = []
    if selection.attribute:
        found.append(key.in_(_keys_with(parse_attributes(selection.attribute))))
    for name, least in parse_attributes(selection.attribute_at_least):
        found.append(key.in_(_numbered(name).where(cast(literal(least), Double) <= _NUMBER)))
    for name, most in parse_attributes(selection.attribute_at_most):
        found.append(key.in_(_numbered(name).where(cast(literal(most), Double) >= _NUMBER)))
    return found


def _tracks(selection: ItemFilters) -> CameraTracks | None:
    """Return the tracks whose items are not selected, or None unless the selection names their camera."""
    if not selection.exclude_track_id or selection.query_camera_id is None:
        return None
    track_ids = spellings(selection.exclude_track_id)
    return CameraTracks(selection.query_camera_id, track_ids, selection.query_captured_at)


def spellings(names: Iterable[str]) -> frozenset[str]:
    """Return each name as it stands and in the Unicode forms in which an older gallery may have the name.

    >>> sorted(map(ascii, spellings(["door", "T" + chr(0xFC) + "r"])))
    ["'T\\\\xfcr'", "'Tu\\\\u0308r'", "'door'"]
    """
    return frozenset(form for name in names for form in unicode_forms(name))


def _sighting(selection: ItemFilters) -> Sighting | None:
    """Return the sighting near which no items are selected, or None if the selection has none."""
    camera_id, captured_at = selection.query_camera_id, selection.query_captured_at
    if selection.exclude_same_camera_s is None or camera_id is None or captured_at is None:
        return None
    return Sighting(camera_id, captured_at, selection.exclude_same_camera_s, spellings([camera_id]))


def _keys(session: Session, identity_ids: Iterable[str]) -> frozenset[int]:
    return frozenset(session.scalars(_keys_of(identity_ids))) if identity_ids else frozenset()


def _keys_of(identity_ids: Iterable[str]) -> Any:
    return select(Identity.key).where(Identity.id.in_(spellings(identity_ids)))


def _keys_with(attributes: frozenset[tuple[str, str]]) -> Any:
    """Select the keys of the identities that have every one of these attributes, in any spelling.

    No identity has one attribute in two spellings of its name with equal values, so the rows can be counted.
    """
    pairs = {
        (one, other)
        for name, value in attributes
        for one in (name, normalise_name(name))
        for other in (value, normalise_name(value))
    }
    return (
        select(Attribute.identity_key)
        .where(tuple_(Attribute.name, Attribute.value).in_(sorted(pairs)))
        .group_by(Attribute.identity_key)
        .having(func.count() == len({(normalise_name(name), normalise_name(value)) for name, value in pairs}))
    )


_NUMBER = case((Attribute.value.regexp_match(NUMBER), cast(Attribute.value, Double)))
"""The value of an attribute as a number; null if the value is none. A bound is read by the same database."""


def _numbered(name: str) -> Any:
    """Select the keys of the identities that have an attribute of this name, in any spelling."""
    return select(Attribute.identity_key).where(Attribute.name.in_({name, normalise_name(name)}))


def of_cameras(cameras: Cameras) -> list[ColumnElement[bool]]:
    """Return SQL conditions for the items that a caller who is limited to some cameras sees."""
    return [] if cameras is None else [Item.camera_id.in_(spellings(cameras))]


def _among(
    column: InstrumentedAttribute[str | None], included: Iterable[str], excluded: Iterable[str]
) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if included:
        found.append(column.in_(spellings(included) - spellings(excluded)))
    elif excluded:
        found.append(or_(column.is_(None), column.not_in(spellings(excluded))))
    return found


def _is_on_none(session: Session, tracks: CameraTracks, gap_s: float) -> ColumnElement[bool]:
    """Return the SQL condition for items that are on none of these tracks."""
    has_ids = and_(Item.camera_id == tracks.camera_id, Item.track_id.in_(tracks.track_ids))
    if tracks.captured_at is None:
        return or_(Item.camera_id.is_(None), Item.track_id.is_(None), not_(has_ids))
    track_of = find_tracks(session, has_ids, gap_s)
    columns = (Item.slot, Item.track_id, Item.captured_at)
    seen: dict[int, list[datetime]] = {}
    track_ids: dict[int, str | None] = {}
    for slot, track_id, at in session.execute(select(*columns).where(has_ids)):
        if at is not None and slot in track_of:
            seen.setdefault(track_of[slot], []).append(at)
            track_ids[track_of[slot]] = track_id
    spans = [
        and_(Item.track_id == track_ids[track], Item.captured_at.between(min(times), max(times)))
        for track, times in seen.items()
        if _is_near(tracks.captured_at, min(times), max(times), gap_s)
    ]
    if not spans:
        return true()
    is_on_one = and_(Item.camera_id == tracks.camera_id, or_(*spans))
    return or_(Item.camera_id.is_(None), Item.track_id.is_(None), Item.captured_at.is_(None), not_(is_on_one))


def _is_near(moment: datetime, first: datetime, last: datetime, gap_s: float) -> bool:
    """Tell whether a moment is within `gap_s` seconds of the span from `first` to `last`."""
    return max((first - moment).total_seconds(), (moment - last).total_seconds()) <= gap_s


def _is_not_near(sighting: Sighting) -> ColumnElement[bool]:
    """Return the SQL condition for items that are not near the sighting; both ends of its span are near."""
    within = timedelta(microseconds=round(sighting.within_s * 1_000_000))
    return or_(
        Item.camera_id.is_(None),
        Item.camera_id.not_in(sighting.camera_ids),
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
