"""The metadata of a crop, and the checks of its fields: ids that callers choose, and times."""

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticKnownError

from model.data.names import normalise_name

MAX_NAME = 255
MAX_ATTRIBUTE_NAME = 64

MAX_SPELLING = 4 * MAX_NAME
"""Longest spelling of a name in another Unicode form: a letter has up to four code points there."""

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


def _in_one_form(value: object) -> object:
    """Normalise a name. Text that is too long for a name is left alone, because it may take minutes."""
    return normalise_name(value) if isinstance(value, str) and len(value) <= MAX_SPELLING else value


def stored_form(name: str, max_length: int = MAX_NAME) -> str:
    """Return a name of an older gallery in Normalisation Form C, or as it stands if that is too long.

    A few letters, such as U+0958, have more code points in Form C.
    """
    composed = normalise_name(name)
    return composed if len(composed) <= max_length else name


def one_form(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return attributes in one Unicode form; a name whose form has another value too stays as it is."""
    alike: dict[str, dict[str, str]] = {}
    for name, value in attributes.items():
        alike.setdefault(stored_form(name, MAX_ATTRIBUTE_NAME), {})[name] = stored_form(value)
    return {
        composed if len(set(values.values())) == 1 else name: value
        for composed, values in alike.items()
        for name, value in values.items()
    }


def _short_enough(value: str) -> str:
    if min(len(value), len(normalise_name(value))) > MAX_NAME:
        raise PydanticKnownError("string_too_long", {"max_length": MAX_NAME})
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


Name = Annotated[
    str,
    Field(min_length=1, max_length=MAX_NAME),
    AfterValidator(_printable),
    BeforeValidator(_in_one_form),
]
"""A name to store, in one Unicode form: any text without control characters."""

SoughtName = Annotated[
    str,
    Field(min_length=1, max_length=MAX_SPELLING),
    AfterValidator(_short_enough),
    AfterValidator(_printable),
]
"""A name to look up, as the caller spells the name; see `unicode_forms`."""

Time = Annotated[AwareDatetime, BeforeValidator(_rfc_3339), AfterValidator(_in_utc)]
"""An RFC 3339 time with its offset, turned into UTC; a leap second becomes the first second after it."""

IdentityName = Annotated[Name, AfterValidator(_not_a_page)]
"""The id of an identity; `suggestions` is refused, because GET /identities/suggestions is a list."""

OptionalName = Annotated[Name | None, BeforeValidator(blank_is_none)]
OptionalSoughtName = Annotated[SoughtName | None, BeforeValidator(blank_is_none)]
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
