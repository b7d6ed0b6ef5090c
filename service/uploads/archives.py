"""Read the members of a posted tar or zip, one after the other; no other module opens archives.

No member is written to the disk under its own name. Declared sizes are not trusted: the bytes of a member are
counted as they are unpacked. An archive with one hostile member is refused as a whole.
"""

import bz2
import gzip
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, cast

from model.data.folders import IMAGE_SUFFIXES, MANIFEST
from service.errors import BadArchive

BESIDE_MANIFEST = ("gallery.json", "embeddings.npy")
"""Further files in the archives of `reid export`, which an import does not need."""

MAX_MANIFEST_BYTES = 64 * 1024 * 1024
MAX_MEMBERS = 200_000
MAX_NAME = 1_024
CHUNK = 1024 * 1024
MAX_DIRECTORY_BYTES = 32 * 1024 * 1024
"""Size of the list of members of a zip, which the standard library reads as a whole."""

ZIP_END_BYTES = 22 + 65_535
"""Size of the last record of a zip, with the longest comment that may follow."""

BLOCK_BYTES = 512
READ_AHEAD_BYTES = 4 * 10_240
"""More than tarfile reads beyond its current header."""

MAX_HEADER_BYTES = 1024 * 1024
"""Bytes that a tar may hold between the contents of two members, or at its end."""

PACKED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    b"BZh": bz2.BZ2File,
}
"""Readers of compressed tars, by the first bytes of the file."""

DRIVE = re.compile(r"[A-Za-z]:")

DAMAGED = (
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    NotImplementedError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Exceptions of the standard library for archives that are damaged, or of an unknown kind."""


@dataclass(frozen=True)
class Member:
    """An image or the manifest of an archive."""

    name: str
    data: bytes


class Archive:
    """A posted archive.

    Args:
        file: the archive; seekable.
        max_bytes: most bytes of all its members, unpacked.
        max_member_bytes: most bytes of one image.

    Attributes:
        num_skipped: number of harmless files that are no images; final once `members` has ended.
    """

    def __init__(self, file: BinaryIO, max_bytes: int, max_member_bytes: int) -> None:
        self._file = file
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._max_member_bytes = max_member_bytes
        self._names: set[str] = set()
        self.num_skipped = 0

    def members(self) -> Iterator[Member]:
        """Read the images and the manifest of the archive, in their order; call this once.

        Raises:
            BadArchive: the file is damaged, no archive or too large, or has a hostile member.
        """
        self._file.seek(0)
        try:
            is_zip = self._file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
            self._file.seek(0)
            yield from self._of_zip() if is_zip else self._of_tar()
        except DAMAGED as error:
            raise BadArchive(f"the archive is damaged, or no tar or zip: {error}") from error

    def _of_zip(self) -> Iterator[Member]:
        self._check_directory()
        with zipfile.ZipFile(self._file) as archive:
            for info in archive.infolist():
                self._check(info.orig_filename)
                mode = info.external_attr >> 16
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise BadArchive(
                        f"{info.filename!r} is compressed by a method that is not accepted; use deflate"
                    )
                if info.flag_bits & 1:
                    raise BadArchive(f"{info.filename!r} is encrypted")
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise BadArchive(f"{info.filename!r} is a link or a device")
                if not info.is_dir():
                    with archive.open(info) as content:
                        # The cost is 0, because a zip unpacks only the members that are read.
                        yield from self._member(info.filename, content, 0)

    def _check_directory(self) -> None:
        """Check the size of the list of members of a zip, because the list is read as a whole.

        Raises:
            BadArchive: the list is too large, or the end of the zip is missing.
        """
        self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, self._file.tell() - ZIP_END_BYTES))
        end = self._file.read()
        place = end.rfind(b"PK\x05\x06")
        num_bytes = int.from_bytes(end[place + 12 : place + 16], "little")
        if place < 0 or num_bytes > MAX_DIRECTORY_BYTES:
            raise BadArchive(
                "the zip is damaged, or has a longer list of members than is accepted; use a tar"
            )

    def _of_tar(self) -> Iterator[Member]:
        unpacked = _Unpacked(self._file)
        with tarfile.open(fileobj=cast(IO[bytes], unpacked), mode="r|") as archive:
            for info in archive:
                self._check(info.name)
                if not (info.isreg() or info.isdir()):
                    raise BadArchive(f"{info.name!r} is a link or a device")
                if info.sparse is not None:
                    raise BadArchive(f"{info.name!r} is sparse")
                if info.size > self._left:
                    raise self._too_large()
                unpacked.allow(info.size)
                content = archive.extractfile(info)
                if content is not None:
                    yield from self._member(info.name, content, info.size)
            unpacked.check_end(archive.offset)

    def _check(self, name: str) -> None:
        """Check that the name of a member is harmless and new.

        Raises:
            BadArchive: the name is harmful or there twice, or the archive has too many members.
        """
        shown = name[:100]
        if len(self._names) >= MAX_MEMBERS:
            raise BadArchive(f"the archive has more than {MAX_MEMBERS:,} members")
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise BadArchive(f"{shown!r} is no name for a member")
        if name.startswith("/") or DRIVE.match(name) or "\\" in name:
            raise BadArchive(f"{shown!r} is an absolute name, or has a drive or a backslash")
        if ".." in name.split("/"):
            raise BadArchive(f"{shown!r} leads out of the archive")
        plain = "/".join(part for part in name.split("/") if part not in ("", "."))
        if plain in self._names:
            raise BadArchive(f"{shown!r} is in the archive twice")
        self._names.add(plain)

    def _member(self, name: str, content: IO[bytes], cost: int) -> Iterator[Member]:
        plain = [part for part in name.split("/") if part not in ("", ".")]
        if not plain:
            raise BadArchive(f"{name!r} is no name for a file")
        is_manifest = plain == [MANIFEST]
        is_hidden = any(part.startswith(".") or part == "__MACOSX" for part in plain)
        suffix = f".{plain[-1].rpartition('.')[2].lower()}"
        if is_manifest or (suffix in IMAGE_SUFFIXES and not is_hidden):
            most = MAX_MANIFEST_BYTES if is_manifest else self._max_member_bytes
            yield Member("/".join(plain), self._read(name, content, most))
        else:
            self.num_skipped += "/".join(plain) not in BESIDE_MANIFEST
            self._left -= cost

    def _too_large(self) -> BadArchive:
        return BadArchive(f"the archive has more than {self._max_bytes:,} bytes when unpacked")

    def _read(self, name: str, content: IO[bytes], most: int) -> bytes:
        data = bytearray()
        while chunk := content.read(CHUNK):
            data += chunk
            self._left -= len(chunk)
            if len(data) > most:
                raise BadArchive(f"{name[:100]!r} has more than {most:,} bytes")
            if self._left < 0:
                raise self._too_large()
        return bytes(data)


class _Unpacked:
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
