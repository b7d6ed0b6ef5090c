"""What the standard library does not check of a zip: its list of members, and the encoding of names."""

import zlib
from typing import BinaryIO
from zipfile import ZipInfo

from service.errors import BadArchive

MAX_DIRECTORY_BYTES = 32 * 1024 * 1024
"""Size of the list of members of a zip, which the standard library reads as a whole."""

ENTRY_BYTES = 46
UTF_8_FLAG = 0x800
UNICODE_PATH = 0x7075
"""The number of the extra field that holds a name in UTF-8."""


class GuardedZip:
    """A zip, whose list of members is judged when the standard library reads the list.

    The standard library reads the list as a whole, from a place that several fields of the file decide. A
    guard that looked for this place itself could be led to another one.

    Args:
        file: the zip; seekable.
        max_members: most members of the list.
    """

    def __init__(self, file: BinaryIO, max_members: int) -> None:
        self._file = file
        self._max_members = max_members
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most `size`.

        Raises:
            BadArchive: the bytes are a list of too many members, or more bytes than a list may have.
        """
        most = MAX_DIRECTORY_BYTES + 1
        data = self._file.read(most if size < 0 else min(size, most))
        if len(data) == most:
            raise BadArchive("the zip has a longer list of members than is accepted; use a tar")
        if _num_entries(data, self._max_members) > self._max_members:
            raise BadArchive(f"the archive has more than {self._max_members:,} members")
        return data


def _num_entries(directory: bytes, stop_after: int) -> int:
    """Count the entries of a directory, until there are more than `stop_after`."""
    place = num = 0
    while num <= stop_after and directory[place : place + 4] == b"PK\x01\x02":
        lengths = directory[place + 28 : place + 34]
        place += ENTRY_BYTES + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2, 4))
        num += 1
    return num


def name_of(info: ZipInfo) -> tuple[str, bool]:
    """Return the name of a member, and whether the encoding of the name is known.

    A name without a note of its encoding is read as UTF-8, and as code page 437 if it is not UTF-8.
    """
    if info.flag_bits & UTF_8_FLAG:
        return info.orig_filename, True
    raw = info.orig_filename.encode("cp437")
    for name in (_unicode_path(info.extra, raw), raw):
        try:
            if name is not None:
                return name.decode(), True
        except UnicodeDecodeError:
            continue
    return info.orig_filename, False


def _unicode_path(extra: bytes, raw: bytes) -> bytes | None:
    """Return the name in the extra field for UTF-8 names, if there is one and it belongs to the raw name."""
    while len(extra) >= 4:
        kind, num = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        value, extra = extra[4 : 4 + num], extra[4 + num :]
        if kind == UNICODE_PATH and int.from_bytes(value[1:5], "little") == zlib.crc32(raw):
            return value[5:]
    return None
