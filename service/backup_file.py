"""The file of a backup: a plain tar whose last member has the SHA-256 of every other one.

`backup.json` comes first and says what it is of, then crops, networks and `gallery.sqlite3`, and last
`SHA256SUMS`, which `sha256sum -c` reads. Members are plain files with names of known forms and nothing else:
whatever deviates, if only by a byte behind the end, is torn.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from service.errors import RestoreRefused

FORMAT = 1
ABOUT, TABLES, SUMS = "backup.json", "gallery.sqlite3", "SHA256SUMS"
NAME = re.compile(
    r"backup\.json|gallery\.sqlite3|SHA256SUMS|crops/[0-9a-f]{64}|models/[0-9a-f]{12}\.safetensors"
)
SUM = re.compile(r"([0-9a-f]{64})  (.+)")
ABOUT_BYTES = 4096
BYTES_A_SUM = 160
CHUNK = 1024 * 1024
BLOCK, RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE


@dataclass(frozen=True)
class About:
    """What a backup is of; `missing_crops` are those that were gone when it was made.

    Left out is what only a running service needs: kept answers, and jobs that had not ended with their files.
    """

    format: int
    program: str
    schema: str
    created_at: str
    newest_change: int
    items: int
    identities: int
    crops: int
    models: int
    missing_crops: int
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    """Where in the file the bytes of a member are."""

    name: str
    offset: int
    size: int


class BackupWriter:
    """Writes a backup from front to back, but for what it says of itself, which is written last."""

    def __init__(self, file: BinaryIO, moment_s: int) -> None:
        self._file = file
        self._moment_s = moment_s
        self._sums: dict[str, str] = {ABOUT: ""}
        self._begin(ABOUT, ABOUT_BYTES)
        self._about_offset = file.tell()
        file.write(bytes(ABOUT_BYTES))

    def add(self, name: str, content: bytes) -> None:
        """Add a member."""
        self._begin(name, len(content))
        self._file.write(content)
        self._end(name, len(content), hashlib.sha256(content).hexdigest())

    def add_file(self, name: str, path: Path) -> str:
        """Add a file as a member and return its SHA-256.

        Raises:
            OSError: it cannot be read.
        """
        with path.open("rb") as source:
            size = left = os.fstat(source.fileno()).st_size
            self._begin(name, size)
            digest = hashlib.sha256()
            while left and (chunk := source.read(min(CHUNK, left))):
                left -= len(chunk)
                digest.update(chunk)
                self._file.write(chunk)
        if left:
            raise OSError(0, "has become shorter while it was read", str(path))
        return self._end(name, size, digest.hexdigest())

    def finish(self, about: About) -> None:
        """Say what it is of, and close it with the sums."""
        content = json.dumps(asdict(about), indent=1).encode().ljust(ABOUT_BYTES - 1) + b"\n"
        self._sums[ABOUT] = hashlib.sha256(content).hexdigest()
        self.add(SUMS, "".join(f"{sum_}  {name}\n" for name, sum_ in self._sums.items()).encode())
        self._file.write(bytes(_num_closing(self._file.tell())))
        self._file.seek(self._about_offset)
        self._file.write(content)

    def _begin(self, name: str, size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = size, self._moment_s, 0o600
        self._file.write(info.tobuf(tarfile.GNU_FORMAT))

    def _end(self, name: str, size: int, sha256: str) -> str:
        self._file.write(bytes(-size % BLOCK))
        self._sums[name] = sha256
        return sha256


def verify(file: BinaryIO) -> tuple[About, dict[str, Member]]:
    """Read a backup from front to back, and return what it says it is of, and its members.

    Raises:
        RestoreRefused: it is torn, no backup, or one of a later format.
    """
    sums: dict[str, str] = {}
    members: dict[str, Member] = {}
    file.seek(0)
    while (member := _next(file)) is not None:
        if member.name in members or SUMS in members:
            raise torn(f"{member.name} is there again, or behind the end")
        if not members and member.name != ABOUT:
            raise RestoreRefused("it is no backup of a gallery: it does not begin with backup.json")
        members[member.name] = member
        sums[member.name] = _sha256(file, member)
    _check_end(file)
    _check_sums(file, members, sums)
    about = _about(read_member(file, members[ABOUT]))
    if TABLES not in members:
        raise torn(f"{TABLES} is missing")
    return about, members


def read_member(file: BinaryIO, member: Member) -> bytes:
    """Return the bytes of a member; threads may read side by side."""
    return os.pread(file.fileno(), member.size, member.offset)


def chunks_of(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """Return the bytes of a member piece by piece."""
    file.seek(member.offset)
    left = member.size
    while left:
        chunk = file.read(min(CHUNK, left))
        if not chunk:
            raise torn(f"it ends in {member.name}")
        left -= len(chunk)
        yield chunk


def torn(reason: str) -> RestoreRefused:
    """Return the refusal of a file that is not as it was written."""
    return RestoreRefused(f"the backup is torn: {reason}")


def _next(file: BinaryIO) -> Member | None:
    """Read the header of the next member; None at the end."""
    place = file.tell()
    header = file.read(BLOCK)
    if header == bytes(BLOCK):
        file.seek(place)
        return None
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        if not place:
            raise RestoreRefused("it is no backup of a gallery: it is no plain tar") from error
        raise torn(f"byte {place:,} is not the beginning of a member") from error
    if not NAME.fullmatch(info.name) or info.type != tarfile.REGTYPE or info.linkname or info.size < 0:
        raise torn(f"{info.name[:100]!r} is no member that a backup has")
    if info.name == ABOUT and info.size != ABOUT_BYTES:
        raise torn(f"{ABOUT} has {info.size:,} bytes, not {ABOUT_BYTES}")
    return Member(info.name, place + BLOCK, info.size)


def _sha256(file: BinaryIO, member: Member) -> str:
    digest = hashlib.sha256()
    for chunk in chunks_of(file, member):
        digest.update(chunk)
    padding = file.read(-member.size % BLOCK)
    if len(padding) != -member.size % BLOCK or any(padding):
        raise torn(f"{member.name} is not closed as it should be")
    return digest.hexdigest()


def _num_closing(size: int) -> int:
    """Return how many zero bytes close a tar of this size.

    >>> _num_closing(10240), _num_closing(512), _num_closing(9728)
    (10240, 9728, 10752)
    """
    return 2 * BLOCK + -(size + 2 * BLOCK) % RECORD


def _check_end(file: BinaryIO) -> None:
    """See to it that nothing is missing at the end, and that nothing follows."""
    num = _num_closing(file.tell())
    if file.read(num + 1) != bytes(num):
        raise torn("it does not end as it should")


def _check_sums(file: BinaryIO, members: dict[str, Member], sums: dict[str, str]) -> None:
    if SUMS not in members:
        raise torn(f"{SUMS} is missing, which is its last member")
    if members[SUMS].size > BYTES_A_SUM * len(members):
        raise torn(f"{SUMS} is too long")
    del sums[SUMS]
    said: dict[str, str] = {}
    for line in read_member(file, members[SUMS]).decode("ascii", "replace").removesuffix("\n").split("\n"):
        match = SUM.fullmatch(line)
        if match is None or match[2] in said:
            raise torn(f"{SUMS} has a line that is no sum")
        said[match[2]] = match[1]
    for name in sums | said:
        if name not in sums:
            raise torn(f"{name[:100]!r} is missing")
        if sums[name] != said.get(name):
            raise torn(f"{name} is not what {SUMS} says")
        if name.startswith("crops/") and name != f"crops/{sums[name]}":
            raise torn(f"{name} is not what its name says")
        if name.startswith("models/") and not sums[name].startswith(Path(name).stem):
            raise torn(f"{name} is not what its name says")


def _about(content: bytes) -> About:
    try:
        said: dict[str, Any] = json.loads(content)
        if said["format"] != FORMAT:
            raise RestoreRefused(f"it has format {said['format']}, of a later version of this program")
        return About(**said)
    except (KeyError, TypeError, ValueError) as error:
        raise torn(f"{ABOUT} cannot be read") from error
