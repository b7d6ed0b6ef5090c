"""Which items a selection means, told field by field: the twin of `service.gallery.conditions`."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from service.gallery.selection import Selection

ATTRIBUTES = {
    1: {("hat", "red"), ("site", "north"), ("height", "170")},
    2: {("hat", "red"), ("site", "south"), ("height", "-9.50"), ("weight", "70")},
    3: {("hat", "blue"), ("site", "north"), ("height", "tall"), ("weight", "70.5 kg")},
    4: {("height", "1" * 40), ("weight", "1e2")},
}
"""Of the identities, by their keys."""


@dataclass(frozen=True)
class Entry:
    """One item, but for its slot."""

    identity: int
    camera_id: str | None
    captured_at: datetime | None
    track_id: str | None
    embedding: int


def is_in_range(attributes: set[tuple[str, str]], bound: str, sign: int) -> bool:
    """Tell whether an attribute is at least the bound, or at most if the sign is -1."""
    name, _, number = bound.partition("=")
    value = dict(attributes).get(name, "")
    digits = value.removeprefix("-").replace(".", "")
    return digits.isdecimal() and len(digits) < 30 and sign * (Decimal(value) - Decimal(number)) >= 0


def is_meant(entry: Entry, among: Selection) -> bool:
    """Tell of one item, field by field."""
    name, attributes = f"p{entry.identity}", ATTRIBUTES.get(entry.identity, set())
    camera, track, seen = entry.camera_id, entry.track_id, entry.captured_at
    for value, wanted, unwanted in (
        (camera, among.camera_id, among.exclude_camera_id),
        (track, among.track_id, () if among.query_camera_id else among.exclude_track_id),
        (name, among.identity_id, among.exclude_identity_id),
    ):
        if (wanted and value not in wanted) or value in unwanted:
            return False
    if among.captured_after and (seen is None or seen < among.captured_after):
        return False
    if among.captured_before and (seen is None or seen >= among.captured_before):
        return False
    if not {tuple(pair.split("=")) for pair in among.attribute} <= attributes:
        return False
    if not all(is_in_range(attributes, bound, 1) for bound in among.attribute_at_least):
        return False
    if not all(is_in_range(attributes, bound, -1) for bound in among.attribute_at_most):
        return False
    if among.query_captured_at and camera == among.query_camera_id and seen:
        return abs((seen - among.query_captured_at).total_seconds()) > (among.exclude_same_camera_s or 0)
    return True
