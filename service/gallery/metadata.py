"""The metadata of a crop, and the checks of its fields: ids that callers choose, and times."""

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

MAX_NAME = 255

DATE_AND_TIME = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?"
RFC_3339 = re.compile(rf"{DATE_AND_TIME}([Zz]|[+-]\d\d:\d\d)", re.ASCII)
WITHOUT_OFFSET = re.compile(DATE_AND_TIME, re.ASCII)
WITH_LOST_PLUS = re.compile(rf"{DATE_AND_TIME} \d\d:\d\d", re.ASCII)
LEAP_SECOND = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d):60(?=[.Zz+-])", re.ASCII)
OUT_OF_RANGE = "the time is outside the years 1 to 9999 in UTC"
EXAMPLE = "such as 2026-01-31T08:15:00Z"


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
    """Read an RFC 3339 time, and turn a leap second into the first second after it."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not RFC_3339.fullmatch(value):
        raise ValueError(_what_is_wrong(value))
    before = LEAP_SECOND.sub(r"\1:59", value)
    try:
        moment = datetime.fromisoformat(before.upper())
    except ValueError as error:
        raise ValueError(f"there is no such time: {error}") from None
    return moment if before == value else _after_leap_second(moment)


def _what_is_wrong(value: object) -> str:
    if isinstance(value, str) and WITH_LOST_PLUS.fullmatch(value):
        return "the + before the offset has become a space; in a URL write + as %2B"
    if isinstance(value, str) and WITHOUT_OFFSET.fullmatch(value):
        return (
            f"the time has no offset; end it with Z if it is in UTC, else with one such as +01:00, {EXAMPLE}"
        )
    return f"expected an RFC 3339 time with an offset, {EXAMPLE}"


def _after_leap_second(before: datetime) -> datetime:
    """Return the moment after a leap second, whose second 60 is the second 59 of `before`."""
    moment = _in_utc(before)
    if (moment.hour, moment.minute) != (23, 59):
        raise ValueError("the second 60 is a leap second, and there is none but at 23:59:60 in UTC")
    try:
        return moment + timedelta(seconds=1)
    except OverflowError:
        raise ValueError(OUT_OF_RANGE) from None


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError(OUT_OF_RANGE) from None


Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_printable)]
"""An id that the caller chooses: any text without control characters."""

Time = Annotated[AwareDatetime, BeforeValidator(_rfc_3339), AfterValidator(_in_utc)]
"""An RFC 3339 time with its offset, turned into UTC; a leap second becomes the first second after it."""

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
