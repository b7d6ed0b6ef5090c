"""The members of a posted tar or zip, one after the other: the only place that opens archives.

Nothing is unpacked to the disk under a name of theirs, and nothing that they declare is believed: bytes are
counted as they come out. One hostile member refuses the whole.
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
"""What an export of ours has too, and an import does not need."""

MAX_MANIFEST_BYTES = 64 * 1024 * 1024
MAX_MEMBERS = 200_000
MAX_NAME = 1_024
CHUNK = 1024 * 1024
MAX_DIRECTORY = 32 * 1024 * 1024
ZIP_END = 22 + 65_535
"""A zip's last record, and the comment that may stand behind it."""

BLOCK = 512
READ_AHEAD = 4 * 10_240
"""More than tarfile reads beyond the header that it is at."""

HEADERS = 1024 * 1024
"""What a tar may hold between the bytes of two members, or at its end."""

PACKED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    b"BZh": bz2.BZ2File,
}
"""What reads a packed tar, by how it begins."""

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
"""What the readers of the standard library raise on archives that are torn, or of a kind they do not know."""


@dataclass(frozen=True)
class Member:
    """An image or the manifest of an archive."""

    name: str
    data: bytes


class Archive:
    """A posted archive; `num_skipped` counts, once it was read, files that are neither images nor hostile."""

    def __init__(self, file: BinaryIO, max_bytes: int, max_member_bytes: int) -> None:
        self._file = file
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._max_member_bytes = max_member_bytes
        self._names: set[str] = set()
        self.num_skipped = 0

    def members(self) -> Iterator[Member]:
        """Read the archive once.

        Raises:
            BadArchive: it is torn, no archive, too large, or has a member that no honest one has.
        """
        self._file.seek(0)
        try:
            is_zip = self._file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
            self._file.seek(0)
            yield from self._of_zip() if is_zip else self._of_tar()
        except DAMAGED as error:
            raise BadArchive(f"the archive is torn, or no tar or zip: {error}") from error

    def _of_zip(self) -> Iterator[Member]:
        self._check_directory()
        with zipfile.ZipFile(self._file) as archive:
            for info in archive.infolist():
                self._check(info.orig_filename)
                mode = info.external_attr >> 16
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise BadArchive(f"{info.filename!r} is packed in a way that is not taken; use deflate")
                if info.flag_bits & 1:
                    raise BadArchive(f"{info.filename!r} is encrypted")
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise BadArchive(f"{info.filename!r} is a link or a device")
                if not info.is_dir():
                    with archive.open(info) as content:
                        yield from self._member(info.filename, content, 0)  # unpacked only if wanted

    def _check_directory(self) -> None:
        """See to it that the list of members, which is read as a whole, is no bomb itself.

        Raises:
            BadArchive: it is too large.
        """
        self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, self._file.tell() - ZIP_END))
        end = self._file.read()
        place = end.rfind(b"PK\x05\x06")
        num_bytes = int.from_bytes(end[place + 12 : place + 16], "little")
        if place < 0 or num_bytes > MAX_DIRECTORY:
            raise BadArchive("it is torn, or lists more members than a zip may have here: use a tar")

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
        """See to it that a member's name is harmless.

        Raises:
            BadArchive: it is not.
        """
        shown = name[:100]
        if len(self._names) >= MAX_MEMBERS:
            raise BadArchive(f"it has more than {MAX_MEMBERS:,} members")
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise BadArchive(f"{shown!r} is no name for a member")
        if name.startswith("/") or DRIVE.match(name) or "\\" in name:
            raise BadArchive(f"{shown!r} is an absolute name, or not of this world")
        if ".." in name.split("/"):
            raise BadArchive(f"{shown!r} leads out of the archive")
        plain = "/".join(part for part in name.split("/") if part not in ("", "."))
        if plain in self._names:
            raise BadArchive(f"{shown!r} is in it twice")
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
        return BadArchive(f"it has more than {self._max_bytes:,} bytes when unpacked")

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
    """The bytes of a tar as they come out of whatever packs it: never more than was allowed last."""

    def __init__(self, packed: BinaryIO) -> None:
        magic = packed.read(6)
        packed.seek(0)
        readers = [reader for sign, reader in PACKED.items() if magic.startswith(sign)]
        self._read = readers[0](packed).read if readers else packed.read
        self._left = HEADERS
        self._position = 0
        self._tail = b""

    def allow(self, num_bytes: int) -> None:
        """Let so many bytes come out from now on, and the headers behind them."""
        self._left = num_bytes + HEADERS

    def read(self, size: int) -> bytes:
        """Read on; as tarfile does."""
        data: bytes = self._read(size)
        self._left -= len(data)
        if self._left < 0:
            raise BadArchive("it holds more than its members have")
        self._position += len(data)
        self._tail = (self._tail + data)[-READ_AHEAD:]
        return data

    def check_end(self, offset: int) -> None:
        """See to it that from this offset on, where tarfile found no member, there are zeros alone.

        It takes a damaged header for the end of all. A tar without zeros at its end is torn.

        Raises:
            BadArchive: it is damaged or torn.
        """
        end = self._tail[len(self._tail) - (self._position - offset) :] if self._position > offset else b""
        self.allow(0)
        while data := self.read(BLOCK):
            end += data
        if len(end) < BLOCK or end.strip(b"\0"):
            raise BadArchive("the archive is torn or damaged: it does not end as a tar does")
