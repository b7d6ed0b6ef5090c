"""The filters that select items: the one definition of their fields.

Requests read these fields from a form, a query or JSON, and commands from their options. The module
`conditions` translates a selection for the index and for SQL.
"""

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from service.errors import Fault, InvalidRequest
from service.gallery.metadata import OptionalSoughtName, OptionalTime, SoughtName, blank_is_none
from service.keys.callers import Cameras, require_cameras

MAX_NAMES = 1000
MAX_BOUNDS = 16
MAX_SECONDS = 1e9

NUMBER = r"^[+-]?[0-9]{1,15}([.][0-9]{1,15})?$"
"""A value of an attribute that is a number, as Python and PostgreSQL read a regular expression."""

ATTRIBUTES = ("attribute", "attribute_at_least", "attribute_at_most")
"""The fields that say what an identity must be like."""

Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]


def as_list(value: object) -> object:
    """Return a list for a single value, and leave out empty values."""
    if isinstance(value, str):
        value = [value]
    return [one for one in value if one != ""] if isinstance(value, list) else value


def _is_pair(value: str) -> str:
    name, equals, _ = value.partition("=")
    if not name or not equals:
        raise ValueError("expected name=value")
    return value


def _is_bound(value: str) -> str:
    name, _, number = value.partition("=")
    if not name or not re.search(NUMBER, number):
        raise ValueError("expected name=number, such as height=170 or height=1.7")
    return value


Names = Annotated[list[SoughtName], Field(max_length=MAX_NAMES), BeforeValidator(as_list)]
AttributePairs = Annotated[
    list[Annotated[SoughtName, AfterValidator(_is_pair)]],
    Field(max_length=MAX_NAMES),
    BeforeValidator(as_list),
]
AttributeBounds = Annotated[
    list[Annotated[SoughtName, AfterValidator(_is_bound)]],
    Field(max_length=MAX_BOUNDS),
    BeforeValidator(as_list),
]


class ItemFilters(BaseModel):
    """Which items are selected, by what cameras know of them; the identity of an item does not count.

    An item must meet every field; a field with its default is no condition. A name selects the items under
    each of its Unicode forms, because two spellings of one name look alike.

    An item without a camera never meets `camera_id` and always meets `exclude_camera_id`; the same holds for
    tracks. An item without a time meets neither `captured_after` nor `captured_before`, and always meets
    `exclude_same_camera_s`.

    Raises:
        InvalidRequest: no time lies between `captured_after` and `captured_before`, or only some of the last
            three fields are given. Beside `exclude_track_id` the camera of the query, or its camera and time,
            are enough.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    track_id: Names = Field(
        [],
        description="Only items with these track ids, of every camera that camera_id lets through; several "
        "may be given.",
    )
    exclude_track_id: Names = Field(
        [],
        description="No items with these track ids: with query_camera_id only of that camera, with "
        "query_captured_at too only those of the track at that time; several may be given.",
    )
    camera_id: Names = Field([], description="Only items of these cameras; several may be given.")
    exclude_camera_id: Names = Field([], description="No items of these cameras; several may be given.")
    captured_after: OptionalTime = Field(
        None, description="Only items captured at this time or later (RFC 3339)."
    )
    captured_before: OptionalTime = Field(
        None, description="Only items captured before this time (RFC 3339)."
    )
    exclude_same_camera_s: Annotated[Seconds | None, BeforeValidator(blank_is_none)] = Field(
        None,
        description="No items of the camera query_camera_id captured within this many seconds of "
        "query_captured_at; needs both.",
    )
    query_camera_id: OptionalSoughtName = Field(
        None, description="The camera that captured the query, for exclude_same_camera_s or exclude_track_id."
    )
    query_captured_at: OptionalTime = Field(None, description="When the query was captured (RFC 3339).")

    @model_validator(mode="after")
    def _check(self) -> Self:
        # InvalidRequest, because FastAPI answers 500 to a ValueError that a model of a form raises here.
        if self.captured_after and self.captured_before and self.captured_after >= self.captured_before:
            raise InvalidRequest(Fault(("body", "captured_after"), "must be before captured_before"))
        together: tuple[str, ...] = ("exclude_same_camera_s", "query_camera_id", "query_captured_at")
        if self.exclude_track_id and self.exclude_same_camera_s is None:
            together = ("query_camera_id",) if self.query_captured_at is None else together[1:]
        missing = [name for name in together if getattr(self, name) is None]
        if 0 < len(missing) < len(together):
            given = " and ".join(name for name in together if name not in missing)
            raise InvalidRequest(Fault(("body", missing[0]), f"is needed beside {given}"))
        return self

    def within(self, cameras: Cameras) -> Self:
        """Return this selection for a caller who is limited to some cameras: only their items.

        Raises:
            CameraForbidden: the selection names another camera.
        """
        if cameras is None:
            return self
        require_cameras(cameras, self.camera_id)
        return self.model_copy(update={"camera_id": self.camera_id or sorted(cameras)})


class Selection(ItemFilters):
    """Which items are selected, also by their identities: the filters of a search."""

    identity_id: Names = Field([], description="Only items of these identities; several may be given.")
    exclude_identity_id: Names = Field([], description="No items of these identities; several may be given.")
    attribute: AttributePairs = Field(
        [],
        description="Only items of identities with this attribute, written name=value; if several are given, "
        "with all of them.",
    )
    attribute_at_least: AttributeBounds = Field(
        [],
        description="Only items of identities whose attribute is this number or more, written name=number; "
        "if several are given, all must hold. A value that is no decimal number never passes.",
    )
    attribute_at_most: AttributeBounds = Field(
        [],
        description="Only items of identities whose attribute is this number or less, written name=number; "
        "if several are given, all must hold. A value that is no decimal number never passes.",
    )


def filters_of(among: Selection) -> dict[str, Any]:
    """Return the filters that are set, for the audit. People are left out, and the values of attributes.

    >>> filters_of(Selection(camera_id=["door"], identity_id=["anna"], attribute=["coat=red"]))
    {'camera_id': ['door'], 'attribute': ['coat']}
    """
    known = set(Selection.model_fields) - {"identity_id", "exclude_identity_id"}
    filters = among.model_dump(mode="json", include=known, exclude_defaults=True)
    for field in ATTRIBUTES:
        if pairs := getattr(among, field):
            filters[field] = sorted({pair.partition("=")[0] for pair in pairs})
    return filters


def parse_attributes(pairs: list[str]) -> frozenset[tuple[str, str]]:
    """Return the names and values of attributes that are written as name=value.

    >>> parse_attributes(["hat=red=ish"])
    frozenset({('hat', 'red=ish')})
    """
    parts = [pair.partition("=") for pair in pairs]
    return frozenset((name, value) for name, _, value in parts)
