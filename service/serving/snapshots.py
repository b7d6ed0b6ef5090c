"""Snapshots of the index on the disk, so that a start need not read every embedding from the database.

A snapshot is a file of the index and a small JSON header. The header has the name and the SHA-256 of the
file, and the gallery, the model version and the change up to which the index was written. The header is
replaced last, in one step. The file may hold later changes than the header says, because a change may be
applied twice without harm. A snapshot that is missing, damaged or of another gallery is not used, and the
index is built from the database.

A process that writes a snapshot holds a lock on the folder, and first brings the index up to date. A process
that has erased items deletes the snapshot under the same lock. So no later snapshot can hold erased items.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
from pydantic import TypeAdapter

from model.files import open_regular, sync_dir, write_atomically
from service.index import DEFAULT_TRACK_GAP_S, GalleryIndex, IndexKind
from service.serving.replica import Replica
from service.store.locks import lock_of

logger = structlog.get_logger(__name__)

HEADER = "snapshot.json"
MAX_HEADER_BYTES = 10_000
LOCK = "lock"
MIN_CHANGES = 1_000
"""A snapshot is due at the earliest after this many changes since the last one."""

MIN_CHANGED_SHARE = 0.1
"""A snapshot is due at the earliest when the changes are this share of the number of items."""


@dataclass(frozen=True)
class Header:
    """The gallery, model version and newest change of a snapshot, and the file of its index."""

    gallery_id: str
    model_version: str
    sequence: int
    file: str
    sha256: str


HEADERS = TypeAdapter(Header)


class Snapshots:
    """The newest snapshot of the index of one gallery, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._is_refused = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the directory; only its holder writes or deletes snapshots."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with lock_of(self._directory / LOCK):
            yield

    def save(self, gallery_id: str, replica: Replica) -> None:
        """Write a snapshot and delete the one before; call this within `locked`.

        Searches and changes go on while the snapshot is written.

        Raises:
            OSError: the snapshot cannot be written; the one before stays.
        """
        sequence = replica.sequence  # read first, because the index may change while it is written
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
        self._delete_except(path.name)

    def is_due(self, replica: Replica) -> bool:
        """Tell whether enough has changed since the last snapshot."""
        since = self.changes_since(replica)
        return since >= MIN_CHANGES and since >= MIN_CHANGED_SHARE * len(replica.index)

    def changes_since(self, replica: Replica) -> int:
        """Return how many changes are not in the snapshot; all changes if the snapshot cannot be used."""
        header = self._header()
        if header is None or self._is_refused or header.model_version != replica.version:
            return replica.sequence
        return replica.sequence - header.sequence

    def load(
        self,
        gallery_id: str,
        version: str,
        newest: int,
        kind: IndexKind,
        track_gap_s: float = DEFAULT_TRACK_GAP_S,
    ) -> Replica | None:
        """Return the replica in the snapshot, or None if no snapshot can be used; the log says why."""
        header = self._header()
        if header is None:
            return None
        try:
            self._check(header, gallery_id, version, newest)
            index = GalleryIndex.read(self._directory / header.file, kind, track_gap_s)
        except (OSError, ValueError) as error:
            logger.warning(
                "the snapshot is not used, the index is built from the database", reason=str(error)
            )
            self._is_refused = True
            return None
        return Replica(version, index, header.sequence)

    def find_fault(self, gallery_id: str, version: str, newest: int) -> str:
        """Return why the snapshot would not be used; empty if it would be used, or if there is none."""
        try:
            header = self._read_header()
            if header is not None:
                self._check(header, gallery_id, version, newest)
        except (OSError, ValueError) as error:
            return str(error)
        return ""

    def _check(self, header: Header, gallery_id: str, version: str, newest: int) -> None:
        if (header.gallery_id, header.model_version) != (gallery_id, version) or header.sequence > newest:
            raise ValueError("it is of another gallery or model version, or later than the database")
        if _sha256(self._directory / header.file) != header.sha256:
            raise ValueError("its bytes have changed on the disk")

    def delete(self) -> int:
        """Delete all snapshots, and return how many index files were deleted."""
        with self.locked():
            return self._delete_except("")

    def _header(self) -> Header | None:
        try:
            return self._read_header()
        except (OSError, ValueError) as error:
            logger.warning("the snapshot cannot be read", reason=str(error))
            return None

    def _read_header(self) -> Header | None:
        try:
            with open_regular(self._directory / HEADER) as file:
                return HEADERS.validate_json(file.read(MAX_HEADER_BYTES), strict=True, extra="forbid")
        except FileNotFoundError:
            return None

    def _delete_except(self, name: str) -> int:
        """Delete the index files except `name`, and return how many; if `name` is empty, the header too."""
        others = [path for path in self._directory.glob("index-*") if path.name != name]
        for path in others:
            path.unlink(missing_ok=True)
        if not name:
            (self._directory / HEADER).unlink(missing_ok=True)
        sync_dir(self._directory)
        return len(others)


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
