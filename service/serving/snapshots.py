"""Snapshots of the index on disk, so that a start need not read every embedding from the database.

A snapshot is a file of the index, and a small JSON file that names it, says of which gallery, model version
and change it is, and carries its SHA-256. The JSON file is replaced last and in one step. A snapshot may hold
later changes than it says: to apply them again does no harm. One that is missing, torn or foreign is not
used, and the index is built from the database: nothing depends on it.

Whoever writes one, in any process on the folder, holds a lock and first brings the index up to date. Whoever
has erased items removes the snapshot under the same lock: none with those items can appear after that.
"""

import fcntl
import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from model.files import sync_dir, write_atomically
from service.index import GalleryIndex, IndexKind
from service.serving.replica import Replica

logger = structlog.get_logger(__name__)

HEADER = "snapshot.json"
LOCK = "lock"
MIN_CHANGES = 1_000
SHARE = 0.1
"""A snapshot is due when so many changes, and so large a share of the items, have come since the last one."""


@dataclass(frozen=True)
class Header:
    """What a snapshot is of, and the file of its index."""

    gallery_id: str
    model_version: str
    sequence: int
    file: str
    sha256: str


class Snapshots:
    """The newest snapshot of one gallery's index, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._is_refused = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for the others who write or remove snapshots, and keep them waiting; ends with the process."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def save(self, gallery_id: str, replica: Replica) -> None:
        """Write a snapshot and remove the one before, alone; searches and changes go on.

        Raises:
            OSError: it cannot be written; the one before stays.
        """
        sequence = replica.sequence  # first: the index may be further by the time it is written
        path = self._directory / f"index-{secrets.token_hex(8)}"
        try:
            replica.index.write(path)
            header = Header(gallery_id, replica.version, sequence, path.name, _sha256(path))
            sync_dir(self._directory)
            write_atomically(self._directory / HEADER, json.dumps(asdict(header)).encode())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._is_refused = False
        self._remove_but(path.name)

    def is_due(self, replica: Replica) -> bool:
        """Tell whether enough has changed since the last snapshot."""
        since = self.changes_since(replica)
        return since >= MIN_CHANGES and since >= SHARE * len(replica.index)

    def changes_since(self, replica: Replica) -> int:
        """Return how many changes are not in the snapshot; all of them if it is of no use."""
        header = self._header()
        if header is None or self._is_refused or header.model_version != replica.version:
            return replica.sequence
        return replica.sequence - header.sequence

    def load(self, gallery_id: str, version: str, newest: int, kind: IndexKind) -> Replica | None:
        """Return what the snapshot holds, or None, with a line in the log, if it is of no use."""
        header = self._header()
        if header is None:
            return None
        try:
            self._check(header, gallery_id, version, newest)
            index = GalleryIndex.read(self._directory / header.file, kind)
        except (OSError, ValueError) as error:
            logger.warning("the snapshot is not used, the index is built anew", reason=str(error))
            self._is_refused = True
            return None
        return Replica(version, index, header.sequence)

    def fault(self, gallery_id: str, version: str, newest: int) -> str:
        """Say why the snapshot would not be used; nothing if it would, or if there is none."""
        try:
            header = self._read_header()
            if header is not None:
                self._check(header, gallery_id, version, newest)
        except (OSError, ValueError) as error:
            return str(error)
        return ""

    def _check(self, header: Header, gallery_id: str, version: str, newest: int) -> None:
        if (header.gallery_id, header.model_version) != (gallery_id, version) or header.sequence > newest:
            raise ValueError("it is of another gallery, model version or time")
        if _sha256(self._directory / header.file) != header.sha256:
            raise ValueError("its bytes have changed on the disk")

    def remove(self) -> int:
        """Remove what there is, and return how many files hold an index."""
        with self.alone():
            return self._remove_but("")

    def _header(self) -> Header | None:
        try:
            return self._read_header()
        except (OSError, ValueError) as error:
            logger.warning("the snapshot cannot be read", reason=str(error))
            return None

    def _read_header(self) -> Header | None:
        try:
            return Header(**json.loads((self._directory / HEADER).read_bytes()))
        except FileNotFoundError:
            return None
        except TypeError as error:
            raise ValueError(f"{HEADER} has other fields: {error}") from error

    def _remove_but(self, name: str) -> int:
        others = [path for path in self._directory.glob("index-*") if path.name != name]
        for path in others:
            path.unlink(missing_ok=True)
        if not name:
            (self._directory / HEADER).unlink(missing_ok=True)
        sync_dir(self._directory)
        return len(others)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
