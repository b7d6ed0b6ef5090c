"""The metadata of a crop, and the checks of its fields: ids that callers choose, and times."""

import re
import unicodedata
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

MAX_NAME = 255

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def blank_is_none(value: object) -> object:
    """Return None for an empty field, because an empty field counts as absent."""
    return None if value == "" else value


def _printable(value: str) -> str:
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ValueError("control characters are not allowed")
    if value in (".", ".."):
        raise ValueError("no URL can name it")
    return value


def _not_a_page(value: str) -> str:
    if value == "suggestions":
        raise ValueError("no identity can have this id, as /identities/suggestions is a list; choose another")
    return value


def _rfc_3339(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not RFC_3339.fullmatch(value):
        raise ValueError("expected an RFC 3339 time with an offset, such as 2026-01-31T08:15:00Z")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is outside the years 1 to 9999 in UTC") from None


Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_printable)]
"""An id that the caller chooses: any text without control characters."""

Time = Annotated[AwareDatetime, BeforeValidator(_rfc_3339), AfterValidator(_in_utc)]
"""An RFC 3339 time with its offset, turned into UTC."""

IdentityName = Annotated[Name, AfterValidator(_not_a_page)]
"""The id of an identity; `suggestions` is refused, because GET /identities/suggestions is a list."""

OptionalName = Annotated[Name | None, BeforeValidator(blank_is_none)]
OptionalIdentityName = Annotated[IdentityName | None, BeforeValidator(blank_is_none)]
OptionalTime = Annotated[Time | None, BeforeValidator(blank_is_none)]


class ItemMetadata(BaseModel):
    """The metadata of one crop; an absent, null or empty field is unknown.

    A crop without `identity_id` gets an identity of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    identity_id: OptionalIdentityName = None
    camera_id: OptionalName = None
    captured_at: OptionalTime = None
    track_id: OptionalName = None
