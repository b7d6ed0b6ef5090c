"""Read the members of a posted tar or zip, one after the other; no other room opens archives.

No member is written to the disk under its own name. Declared sizes are not trusted: the bytes of a member are
counted as they are unpacked. Only images and gallery.csv are read, and only their names are judged. If one of
these is hostile, the whole archive is refused.
"""

import re
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from os import SEEK_END
from stat import S_IFDIR, S_IFMT, S_IFREG
from typing import IO, BinaryIO, cast

from model.data.folders import is_image_name, is_manifest_name, kind_of_other, kind_of_skipped
from model.data.labels import MAX_BYTES as MAX_MANIFEST_BYTES
from model.data.names import is_text, show_name
from service.errors import BadArchive
from service.uploads.tars import UnpackedTar
from service.uploads.zips import GuardedZip, name_of

BESIDE_MANIFEST = ("gallery.json", "embeddings.npy")
"""Further files in the archives of `reid export`, which an import does not need."""

MAX_MEMBERS = 200_000
MAX_RATIO = 100
FREE_BYTES = 32 * 1024 * 1024
"""An archive may unpack to `MAX_RATIO` times its size, and `FREE_BYTES` more. Crops are packed already, so an
archive that unpacks to more was made to cost time."""

MAX_NAME = 1_024
ZIP = (b"PK\3\4", b"PK\5\6", b"PK00")
"""First bytes of a zip. The last are those of a zip that might have been split, and was not."""

CHUNK = 1024 * 1024
OTHER_KINDS = {
    b"\xfd7zXZ\0": "a file packed by xz",
    b"\x28\xb5\x2f\xfd": "a file packed by zstd",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"RIFF": "a WebP image",
    b"BM": "a BMP image",
    b"\x1f\x9d": "a file packed by compress",
    b"LZIP": "a file packed by lzip",
    b"\x04\x22\x4d\x18": "a file packed by lz4",
    b"MSCF": "a cabinet of Windows",
    b"PK\7\x08": "the first part of a split zip",
    b"PAR1": "a Parquet table",
    b"<": "a web page or XML",
    b"path": "a label file without its crops",
    b'"path"': "a label file without its crops",
    b"\xef\xbb\xbf": "a text without crops",
}
"""Files that are no tar or zip, by their first bytes; a tar may begin with some, as part of a name."""

DRIVE = re.compile(r"[A-Za-z]:")

DAMAGED = (
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    NotImplementedError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Exceptions of the standard library for archives that are damaged, or of an unknown kind."""


@dataclass(frozen=True)
class Member:
    """An image or the gallery.csv of an archive.

    Attributes:
        name: its path with slashes.
        data: its bytes.
        same_as: the name of an earlier member with the same bytes, which a hard link names; `data` is empty.
    """

    name: str
    data: bytes
    same_as: str | None = None


class Archive:
    """A posted archive.

    Args:
        file: the archive; seekable.
        max_bytes: most bytes of all its members, unpacked.
        max_member_bytes: most bytes of one image.

    Attributes:
        num_skipped: number of files that were skipped, by kind; final once `members` has ended.
        failures: images that cannot be taken, each with the reason; final once `members` has ended.
        guessed_names: names in an unknown encoding, read as code page 437; final once `members` has ended.
    """

    def __init__(self, file: BinaryIO, max_bytes: int, max_member_bytes: int) -> None:
        self._file = file
        self._max_unpacked = FREE_BYTES + MAX_RATIO * file.seek(0, SEEK_END)
        self._max_bytes = min(max_bytes, self._max_unpacked)
        self._left = self._max_bytes
        self._max_member_bytes = max_member_bytes
        self._num_members = 0
        self._names: set[str] = set()
        self.num_skipped: Counter[str] = Counter()
        self.failures: list[tuple[str, str]] = []
        self.guessed_names: list[str] = []

    def members(self) -> Iterator[Member]:
        """Read the images and the gallery.csv of the archive, in their order; call this once.

        Raises:
            BadArchive: the file is damaged, no archive or too large, or has a hostile member.
        """
        self._file.seek(0)
        magic = self._file.read(6)
        self._file.seek(0)
        try:
            yield from self._of_zip() if magic.startswith(ZIP) else self._of_tar()
        except DAMAGED as error:
            for sign, kind in OTHER_KINDS.items():
                if magic.startswith(sign):
                    advice = "send a tar (plain, gz or bz2) or a zip"
                    raise BadArchive(f"the archive is {kind}; {advice}") from error
            if zipfile.is_zipfile(self._file):
                reason = "a part of a split zip, or a zip that unpacks itself; send one plain zip"
                raise BadArchive(f"the archive is {reason}") from error
            raise BadArchive(f"the archive is damaged, or no tar or zip: {error}") from error

    def _of_zip(self) -> Iterator[Member]:
        guarded = cast(IO[bytes], GuardedZip(self._file, MAX_MEMBERS))
        with zipfile.ZipFile(guarded) as archive:
            for info in archive.infolist():
                listed, is_known = name_of(info)
                name = self._name_to_read(listed, is_folder=info.is_dir())
                if name is None:
                    continue
                if not is_known:
                    self.guessed_names.append(name)
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise BadArchive(f"{name!r} is compressed by a method that is not accepted; use deflate")
                if info.flag_bits & 1:
                    raise BadArchive(f"{name!r} is encrypted")
                if S_IFMT(info.external_attr >> 16) not in (0, S_IFREG, S_IFDIR):
                    raise _linked(name)
                with archive.open(info) as content:
                    yield Member(name, self._read(name, content))

    def _of_tar(self) -> Iterator[Member]:
        unpacked = UnpackedTar(self._file, self._max_unpacked)
        with tarfile.TarFile(fileobj=cast(IO[bytes], unpacked), encoding="utf-8") as archive:
            for info in archive:
                if info.size > self._left:
                    raise self._too_large()
                unpacked.allow(info.size)
                name = self._name_to_read(info.name, is_folder=info.isdir())
                if name is None:
                    self._left -= info.size
                elif info.islnk() and _plain(info.linkname) in self._names:
                    yield Member(name, b"", same_as=_plain(info.linkname))
                elif not info.isreg():
                    raise _linked(name)
                elif info.sparse is not None:
                    raise BadArchive(f"{name!r} is sparse")
                elif (content := archive.extractfile(info)) is not None:
                    yield Member(name, self._read(name, content))
            unpacked.check_end(archive.offset)

    def _name_to_read(self, listed: str, *, is_folder: bool) -> str | None:
        """Return the plain name of a member that is to be read, or None and count why it is not read.

        Raises:
            BadArchive: the name of a member that is to be read is harmful or there twice, or the archive has
                too many members.
        """
        self._num_members += 1
        if self._num_members > MAX_MEMBERS:
            raise BadArchive(f"the archive has more than {MAX_MEMBERS:,} members")
        name = _plain(listed)
        parts = name.split("/")
        if is_folder:
            return None
        kind = kind_of_skipped(parts)
        if kind is None and not (is_image_name(parts[-1]) or is_manifest_name(parts[-1])):
            kind = kind_of_other(parts[-1])
        if kind is not None:
            if parts[-1].lower() not in BESIDE_MANIFEST:
                self.num_skipped[kind] += 1
            return None
        if not is_text(name):
            self.failures.append((show_name(name), "its name is not UTF-8; pack it under another name"))
            return None
        self._check(listed.replace("\\", "/"), name)
        return name

    def _check(self, listed: str, name: str) -> None:
        shown = listed[:100]
        if len(name) > MAX_NAME or any(unicodedata.category(one) == "Cc" for one in listed):
            raise BadArchive(f"{shown!r} is too long for a name, or has a control character")
        if listed.startswith("/") or DRIVE.match(listed):
            raise BadArchive(f"{shown!r} is an absolute name, or has a drive")
        if ".." in name.split("/"):
            raise BadArchive(f"{shown!r} leads out of the archive")
        if name in self._names:
            raise BadArchive(f"{shown!r} is in the archive twice")
        self._names.add(name)

    def _too_large(self) -> BadArchive:
        reason = f", {MAX_RATIO} times its size" if self._max_bytes == self._max_unpacked else ""
        return BadArchive(f"the archive has more than {self._max_bytes:,} bytes when unpacked{reason}")

    def _read(self, name: str, content: IO[bytes]) -> bytes:
        most = MAX_MANIFEST_BYTES if is_manifest_name(name.split("/")[-1]) else self._max_member_bytes
        data = bytearray()
        while chunk := content.read(CHUNK):
            data += chunk
            self._left -= len(chunk)
            if len(data) > most:
                raise BadArchive(f"{name[:100]!r} has more than {most:,} bytes")
            if self._left < 0:
                raise self._too_large()
        return bytes(data)


def _plain(listed: str) -> str:
    """Return a name in an archive with slashes, and without parts that lead nowhere.

    >>> _plain(chr(92).join([".", "person-1", "a.jpg"]))
    'person-1/a.jpg'
    """
    return "/".join(part for part in listed.replace("\\", "/").split("/") if part not in ("", "."))


def _linked(name: str) -> BadArchive:
    return BadArchive(f"{name!r} is a link or a device; pack the files that links lead to, as tar -h does")
