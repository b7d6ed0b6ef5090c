"""The file of a backup: a tar, written member by member, and verified as a whole before a restore.

The members are plain files with names of known forms. The last member holds the SHA-256 of every other.
"""

import hashlib
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO

from service.errors import BadBackup

TABLES, ABOUT, SUMS = "gallery.sqlite3", "backup.json", "SHA256SUMS"
KNOWN = re.compile(
    rf"crops/[0-9a-f]{{64}}|models/[0-9a-f]{{12}}\.safetensors|{re.escape(TABLES)}|{re.escape(ABOUT)}|{SUMS}"
)
CHUNK = 1024 * 1024


@dataclass
class Writer:
    """Writes members of a tar; `sums` holds their SHA-256 by name."""

    archive: tarfile.TarFile
    sums: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, data: bytes) -> None:
        """Write bytes as a member."""
        self.sums[name] = hashlib.sha256(data).hexdigest()
        self._add(name, len(data), BytesIO(data))

    def add_file(self, name: str, path: Path) -> None:
        """Write a file as a member."""
        with path.open("rb") as file:
            self.sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            self._add(name, path.stat().st_size, file)

    def _add(self, name: str, size: int, file: IO[bytes]) -> None:
        info = tarfile.TarInfo(name)
        info.size = size
        self.archive.addfile(info, file)


def verify(path: Path) -> None:
    """Read a whole backup and compare every member with its SHA-256 in the last member.

    Raises:
        BadBackup: a member differs, is missing, or does not belong in a backup.
    """
    found: dict[str, str] = {}
    sums: bytes | None = None
    try:
        for name, file in members(path):
            if sums is not None:
                raise BadBackup(f"{path} has members after its end")
            if name in found or not KNOWN.fullmatch(name):
                raise BadBackup(f"{path}: {name[:100]!r} does not belong in a backup, or is there twice")
            if name == SUMS:
                sums = file.read()
            else:
                found[name] = _digest(file)
    except (tarfile.TarError, EOFError) as error:
        raise BadBackup(f"{path} is torn: {error}") from error
    if sums is None:
        raise BadBackup(f"{path} is torn: its end is missing")
    if sums != sums_of(found):
        listed, read = sums.splitlines(), sums_of(found).splitlines()
        wrong = next((line for line in read if line not in listed), listed[-1] if listed else b"")
        raise BadBackup(f"{path} is damaged: see {wrong[66:166].decode('utf-8', 'replace')}")
    for name, digest in found.items():
        if name.startswith("crops/") and name != f"crops/{digest}":
            raise BadBackup(f"{path} is damaged: {name} is another crop")
    if not {TABLES, ABOUT} <= found.keys():
        raise BadBackup(f"{path} has no tables")


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def sums_of(digests: dict[str, str]) -> bytes:
    """Return the content of the last member, in the format of `sha256sum -c`."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()


def members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Return the members of a backup, one after the other.

    Raises:
        BadBackup: the file is no tar, is torn, or holds other things than plain files.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                content = archive.extractfile(info) if info.isreg() and info.sparse is None else None
                if content is None:
                    raise BadBackup(f"{path}: {info.name[:100]!r} is no plain file")
                yield info.name, content
            if any(map(any, iter(partial(file.read, CHUNK), b""))):
                raise BadBackup(f"{path} is torn: there are bytes after its end")
    except FileNotFoundError:
        raise BadBackup(f"{path} does not exist") from None
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise BadBackup(f"{path} is torn, or no backup: {error}") from error
