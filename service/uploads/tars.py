"""The bytes of a tar, decompressed, within bounds that the standard library does not keep."""

import bz2
import gzip
import re
import tarfile
from collections.abc import Callable
from typing import Any, BinaryIO

from service.errors import BadArchive

MAX_HEADER_BYTES = 1024 * 1024
"""Bytes that a tar may hold between the contents of two members, or at its end."""

BLOCK_BYTES = 512
SKIPPED_AT_ONCE = 1024 * 1024

MANY_DIGITS = re.compile(rb"[0-9]{1000}")
"""More digits in a row than a header needs. Python before 3.11.10 takes minutes to parse a million digits."""

PACKED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    b"BZh": bz2.BZ2File,
}
"""Readers of compressed tars, by the first bytes of the file."""


class UnpackedTar:
    """The bytes of a tar, decompressed if need be, read from the first to the last.

    Args:
        packed: the file.
        max_bytes: most bytes of the whole tar; more are an error, wherever they are.
    """

    def __init__(self, packed: BinaryIO, max_bytes: int) -> None:
        magic = packed.read(6)
        packed.seek(0)
        readers = [reader for sign, reader in PACKED.items() if magic.startswith(sign)]
        self._read = readers[0](packed).read if readers else packed.read
        self._max_bytes = max_bytes
        self._allowed_to = MAX_HEADER_BYTES
        self._contents_to = 0
        self._position = 0
        self._tail = b""

    def allow(self, num_bytes: int) -> None:
        """Allow `num_bytes` of contents from here on, and after them `MAX_HEADER_BYTES` of headers."""
        self._contents_to = self._position + num_bytes
        self._allowed_to = self._contents_to + MAX_HEADER_BYTES

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._position

    def seek(self, position: int) -> None:
        """Read on to a position.

        Raises:
            BadArchive: as `read`.
            StreamError: the position was passed already.
        """
        if position < self._position:
            raise tarfile.StreamError("a member begins before the end of the one before")
        while self._position < position and self.read(min(SKIPPED_AT_ONCE, position - self._position)):
            pass

    def read(self, size: int) -> bytes:
        """Return the next bytes of the tar, at most `size`.

        Raises:
            BadArchive: the tar has more bytes than are allowed, or a header of digits.
        """
        data: bytes = self._read(size)
        is_header = self._position >= self._contents_to
        self._position += len(data)
        if self._position > self._allowed_to:
            raise BadArchive("the archive holds more bytes than its members declare")
        if self._position > self._max_bytes:
            raise BadArchive(
                f"the archive has more than {self._max_bytes:,} bytes when unpacked, many times its size"
            )
        if is_header and MANY_DIGITS.search(data):
            raise BadArchive("the archive is damaged: a header has a number of 1,000 digits")
        self._tail = data[-BLOCK_BYTES:]
        return data

    def check_end(self, offset: int) -> None:
        """Check that the tar has only zeros from `offset` on, where tarfile found no further member.

        The check is needed because tarfile takes a damaged header for the end of the tar. A tar that does not
        end with a block of zeros was cut off.

        Raises:
            BadArchive: the tar is damaged or cut off.
        """
        end = self._tail[len(self._tail) - (self._position - offset) :] if self._position > offset else b""
        self.allow(0)
        while data := self.read(BLOCK_BYTES):
            end += data
        if len(end) < BLOCK_BYTES or end.strip(b"\0"):
            raise BadArchive("the archive is damaged or cut off: it does not end as a tar does")
