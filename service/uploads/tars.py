"""The bytes of a tar, decompressed, within bounds that the standard library does not keep."""

import bz2
import gzip
from collections.abc import Callable
from typing import Any, BinaryIO

from service.errors import BadArchive

MAX_HEADER_BYTES = 1024 * 1024
"""Bytes that a tar may hold between the contents of two members, or at its end."""

BLOCK_BYTES = 512
READ_AHEAD_BYTES = 4 * 10_240
"""More than tarfile reads beyond its current header."""

PACKED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    b"BZh": bz2.BZ2File,
}
"""Readers of compressed tars, by the first bytes of the file."""


class UnpackedTar:
    """The bytes of a tar, decompressed if need be; reading more bytes than `allow` allows is an error."""

    def __init__(self, packed: BinaryIO) -> None:
        magic = packed.read(6)
        packed.seek(0)
        readers = [reader for sign, reader in PACKED.items() if magic.startswith(sign)]
        self._read = readers[0](packed).read if readers else packed.read
        self._left = MAX_HEADER_BYTES
        self._position = 0
        self._tail = b""

    def allow(self, num_bytes: int) -> None:
        """Allow `num_bytes` more bytes, and after them at most `MAX_HEADER_BYTES` of headers."""
        self._left = num_bytes + MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        """Return the next bytes of the tar, at most `size`.

        Raises:
            BadArchive: the tar has more bytes than are allowed.
        """
        data: bytes = self._read(size)
        self._left -= len(data)
        if self._left < 0:
            raise BadArchive("the archive holds more bytes than its members declare")
        self._position += len(data)
        self._tail = (self._tail + data)[-READ_AHEAD_BYTES:]
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
