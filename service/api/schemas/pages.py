"""Lists that are returned a page at a time: the query parameters, and the cursor to the next page.

A list is ordered by a number, such as the slot of an item. The cursor holds the last number of a page. The
cursor is encoded, so that no caller relies on it.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import Field

from service.api.schemas.strict import StrictModel
from service.errors import Fault, InvalidRequest

MAX_LIMIT = 1000
MAX_DIGITS = 18
"""Most digits of the number in a cursor, so that the number fits a signed 64-bit integer of the database."""

FIRST_MOMENT = datetime.min.replace(tzinfo=UTC)
NOT_OURS = Fault(("body", "cursor"), "is not a cursor that this service has returned")

Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="The largest number of entries to return.")]


class Page(StrictModel):
    """The query parameters of a list that is returned a page at a time."""

    limit: Limit = 100
    cursor: Annotated[
        str,
        Field(max_length=64, description="The next_cursor of the previous page; empty for the first page."),
    ] = ""

    def after(self) -> int:
        """Return the last number of the previous page, or 0 for the first page.

        Raises:
            InvalidRequest: the cursor does not come from this service.
        """
        return number_of_cursor(self.cursor)


def cursor_of_moment(last: tuple[datetime, int] | None) -> str | None:
    """Return the cursor for the page after a time and a number, or None if that was the last page.

    >>> last = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC), 7
    >>> moment_of_cursor(cursor_of_moment(last)) == last, cursor_of_moment(None), moment_of_cursor("")
    (True, None, None)
    """
    if last is None:
        return None
    moment, number = last
    microseconds = (moment - FIRST_MOMENT) // timedelta(microseconds=1)
    return urlsafe_b64encode(b"after %d %d" % (microseconds, number)).decode().rstrip("=")


def moment_of_cursor(cursor: str) -> tuple[datetime, int] | None:
    """Return the time and the number that a cursor holds; None for an empty cursor.

    Raises:
        InvalidRequest: the cursor does not come from this service.
    """
    if not cursor:
        return None
    try:
        word, *numbers = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).split(b" ")
        microseconds, number = (int(one) for one in numbers if one.isdigit() and len(one) <= MAX_DIGITS)
        if word == b"after" and len(numbers) == len((microseconds, number)):
            return FIRST_MOMENT + timedelta(microseconds=microseconds), number
    except (ValueError, OverflowError):
        pass
    raise InvalidRequest(NOT_OURS)


def cursor_of(number: int | None) -> str | None:
    """Return the cursor for the page after a number, or None if that was the last page.

    >>> cursor_of(None), number_of_cursor(cursor_of(12))
    (None, 12)
    """
    return None if number is None else urlsafe_b64encode(b"after %d" % number).decode().rstrip("=")


def number_of_cursor(cursor: str) -> int:
    """Return the number that a cursor holds; 0 for an empty cursor, which is before every number.

    Raises:
        InvalidRequest: the cursor does not come from this service.
    """
    if not cursor:
        return 0
    try:
        word, number = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).split(b" ")
        if word == b"after" and number.isdigit() and len(number) <= MAX_DIGITS:
            return int(number)
    except ValueError:
        pass
    raise InvalidRequest(NOT_OURS)
