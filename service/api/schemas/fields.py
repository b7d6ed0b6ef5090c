"""Which items a request means: the same fields wherever they are taken."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from service.api.schemas.strict import StrictModel
from service.errors import Fault, InvalidRequest
from service.gallery.metadata import Name, OptionalName, OptionalTime, blank_is_none
from service.gallery.selection import Selection
from service.index import Sighting

MAX_NAMES = 1000
MAX_SECONDS = 1e9


Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]


def _as_list(value: object) -> object:
    """Take one value for a list of it, and leave empty ones out."""
    if isinstance(value, str):
        value = [value]
    return [one for one in value if one != ""] if isinstance(value, list) else value


def _is_pair(value: str) -> str:
    name, equals, _ = value.partition("=")
    if not name or not equals:
        raise ValueError("expected name=value")
    return value


Names = Annotated[list[Name], Field(max_length=MAX_NAMES), BeforeValidator(_as_list)]
AttributePairs = Annotated[
    list[Annotated[Name, AfterValidator(_is_pair)]], Field(max_length=MAX_NAMES), BeforeValidator(_as_list)
]


def selection_of(
    *,
    camera_id: list[str],
    exclude_camera_id: list[str],
    captured_after: datetime | None,
    captured_before: datetime | None,
    identity_id: list[str],
    exclude_identity_id: list[str],
    track_id: list[str],
    exclude_track_id: list[str],
    attribute: list[str],
    exclude_same_camera_s: float | None,
    query_camera_id: str | None,
    query_captured_at: datetime | None,
) -> Selection:
    """Make a selection of the fields of a request.

    Raises:
        InvalidRequest: if the window of time is empty, or the query's own sighting is half known.
    """
    if captured_after and captured_before and captured_after >= captured_before:
        raise InvalidRequest(Fault(("body", "captured_after"), "must be before captured_before"))
    return Selection(
        camera_ids=frozenset(camera_id),
        excluded_camera_ids=frozenset(exclude_camera_id),
        captured_after=captured_after,
        captured_before=captured_before,
        identity_ids=frozenset(identity_id),
        excluded_identity_ids=frozenset(exclude_identity_id),
        track_ids=frozenset(track_id),
        excluded_track_ids=frozenset(exclude_track_id),
        attributes=attributes_of(attribute),
        excluded_sighting=_sighting(exclude_same_camera_s, query_camera_id, query_captured_at),
    )


def attributes_of(pairs: list[str]) -> frozenset[tuple[str, str]]:
    """Return names and values.

    >>> attributes_of(["hat=red=ish"])
    frozenset({('hat', 'red=ish')})
    """
    parts = [pair.partition("=") for pair in pairs]
    return frozenset((name, value) for name, _, value in parts)


def _sighting(within_s: float | None, camera_id: str | None, captured_at: datetime | None) -> Sighting | None:
    """Return what is not to be found again, if anything.

    Raises:
        InvalidRequest: if only a part of it is given.
    """
    fields = {
        "exclude_same_camera_s": within_s,
        "query_camera_id": camera_id,
        "query_captured_at": captured_at,
    }
    missing = [name for name, value in fields.items() if value is None]
    if within_s is not None and camera_id is not None and captured_at is not None:
        return Sighting(camera_id, captured_at, within_s)
    if len(missing) < len(fields):
        given = " and ".join(name for name in fields if name not in missing)
        raise InvalidRequest(Fault(("body", missing[0]), f"is needed beside {given}"))
    return None


class SelectionFields(StrictModel):
    """Which items are meant, by the filters of a search; all must hold, and absent ones say nothing."""

    identity_id: Names = Field([])
    exclude_identity_id: Names = Field([])
    track_id: Names = Field([])
    exclude_track_id: Names = Field([])
    camera_id: Names = Field([])
    exclude_camera_id: Names = Field([])
    attribute: AttributePairs = Field([])
    captured_after: OptionalTime = None
    captured_before: OptionalTime = None
    exclude_same_camera_s: Annotated[Seconds | None, BeforeValidator(blank_is_none)] = None
    query_camera_id: OptionalName = None
    query_captured_at: OptionalTime = None

    def selection(self) -> Selection:
        """Return the selection that these fields make.

        Raises:
            InvalidRequest: if the window of time is empty, or the query's own sighting is half known.
        """
        fields = SelectionFields.model_fields
        return selection_of(**{name: getattr(self, name) for name in fields})
