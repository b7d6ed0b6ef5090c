"""The cursors of lists: where the next page begins, in a form that only this gallery can read.

A list is ordered by numbers, such as the slots of items. All cameras share these numbers. If callers could
read them, a key that is limited to some cameras would tell how much the others have enrolled.
"""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from copy import copy
from datetime import UTC, datetime, timedelta
from functools import cache, partial

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from service.audit.secret import open_secret
from service.errors import Fault, InvalidRequest
from service.settings import Settings

FIRST_MOMENT = datetime.min.replace(tzinfo=UTC)
NOT_OURS = Fault(("query", "cursor"), "is not a cursor that this service has returned")

Place = tuple[datetime, int]
"""A time, and a number that orders what has the same time."""


class Cursors:
    """Writes and reads cursors: numbers that are encrypted by AES-SIV (RFC 5297), which also seals them.

    The key comes from the secret of the audit. So all processes of a gallery read each other's cursors, and
    those of before a restart. The cursor of one list is none of another, because items and identities are
    numbered apart, and which number comes first would tell how many there are of both.

    Args:
        settings: the settings of this process, which say where the secret is.
    """

    def __init__(self, settings: Settings) -> None:
        self._cipher = cache(partial(_open_cipher, settings))  # which the cursors of all lists share
        self._list = b""

    def of_list(self, path: str) -> "Cursors":
        """Return the cursors of the list at a path of the API."""
        own = copy(self)
        own._list = path.encode()
        return own

    def of(self, number: int | None) -> str | None:
        """Return the cursor for the page after a number, or None if that was the last page."""
        return None if number is None else self._write(number)

    def after(self, cursor: str) -> int:
        """Return the number that a cursor holds; 0 for an empty cursor, which is before every number.

        Raises:
            InvalidRequest: the cursor does not come from this service, or from another list.
        """
        if not cursor:
            return 0
        (number,) = self._read(cursor, 1)
        return number

    def of_place(self, last: Place | None) -> str | None:
        """Return the cursor for the page after a time and a number, or None if that was the last page."""
        if last is None:
            return None
        moment, number = last
        return self._write((moment - FIRST_MOMENT) // timedelta(microseconds=1), number)

    def after_place(self, cursor: str) -> Place | None:
        """Return the time and the number that a cursor holds; None for an empty cursor.

        Raises:
            InvalidRequest: the cursor does not come from this service, or from another list.
        """
        if not cursor:
            return None
        microseconds, number = self._read(cursor, 2)
        return FIRST_MOMENT + timedelta(microseconds=microseconds), number

    def _write(self, *numbers: int) -> str:
        sealed = self._cipher().encrypt(struct.pack(f">{len(numbers)}q", *numbers), [self._list])
        return urlsafe_b64encode(sealed).decode().rstrip("=")

    def _read(self, cursor: str, count: int) -> tuple[int, ...]:
        try:
            sealed = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            return struct.unpack(f">{count}q", self._cipher().decrypt(sealed, [self._list]))
        except (ValueError, InvalidTag, struct.error):
            raise InvalidRequest(NOT_OURS) from None


def _open_cipher(settings: Settings) -> AESSIV:
    return AESSIV(bytes.fromhex(open_secret(settings).mac("cursors")))
