"""What the standard library does not check of a zip: the size of its directory, and the encoding of names."""

import os
import zlib
from typing import BinaryIO
from zipfile import ZipInfo

from service.errors import BadArchive

MAX_DIRECTORY_BYTES = 32 * 1024 * 1024
"""Size of the list of members of a zip, which the standard library reads as a whole."""

END_BYTES = 22 + 65_535
"""Size of the last record of a zip, with the longest comment that may follow."""

END64_BYTES = 20 + 56
"""Size of the two records before the last one that a zip in the zip64 format has."""

ENTRY_BYTES = 46
UTF_8_FLAG = 0x800
UNICODE_PATH = 0x7075
"""The number of the extra field that holds a name in UTF-8."""


def check_directory(file: BinaryIO, max_members: int) -> None:
    """Check the list of members of a zip, because the standard library reads the list as a whole.

    Raises:
        BadArchive: the list has too many members or bytes, or the end of the zip is missing.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - END_BYTES - END64_BYTES))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0:
        raise BadArchive("the zip is damaged: its end is missing")
    num_bytes = int.from_bytes(tail[end + 12 : end + 16], "little")
    start = size - len(tail) + end - num_bytes
    if tail[max(0, end - 20) : end].startswith(b"PK\x06\x07"):
        num_bytes = int.from_bytes(tail[end - 36 : end - 28], "little")
        start = size - len(tail) + end - END64_BYTES - num_bytes
    if num_bytes > MAX_DIRECTORY_BYTES:
        raise BadArchive("the zip has a longer list of members than is accepted; use a tar")
    file.seek(max(0, start))
    if _num_entries(file.read(num_bytes), max_members) > max_members:
        raise BadArchive(f"the archive has more than {max_members:,} members")


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
