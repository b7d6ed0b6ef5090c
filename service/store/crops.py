"""The bytes of the crops on the disk, by their SHA-256; after a crash a file is whole or absent."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from threading import Lock

from model.files import open_regular, sync_dir, write_atomically
from service.errors import CropMissing

PARALLEL_WRITES = 8
UNFINISHED_S = 600
"""A temporary file older than this, in seconds, is left from a crash, because no write takes so long."""

MAX_WRITES = 5
"""Attempts to write one crop while `delete` keeps removing its temporary file."""


class CropStore:
    """Keeps the bytes of crops under `root`/ab/cd/<sha256>; equal bytes are kept once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = Lock()
        self._growth = 0

    @property
    def growth(self) -> int:
        """Return the bytes that this process has written, less those that it has deleted."""
        with self._lock:
            return self._growth

    def put(self, data: bytes) -> str:
        """Store the bytes of a crop on the disk, synced, and return their SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        if not _holds(path, data):
            _write(path, data)
            self._grow(len(data))
        for directory in (path.parent, path.parent.parent, self._root):
            sync_dir(directory)  # also an old folder: the thread that made it may not have synced it yet
        return sha256

    def put_all(self, readers: Iterable[Callable[[], bytes]]) -> None:
        """Store the bytes that the readers return, several at once: each write waits for the disk."""
        with ThreadPoolExecutor(PARALLEL_WRITES) as threads:
            for _ in threads.map(lambda read: self.put(read()), readers):
                pass

    def has(self, sha256: str) -> bool:
        """Tell whether the crop of this hash is stored."""
        return self.path(sha256).exists()

    def get(self, sha256: str) -> bytes:
        """Return the bytes of the crop of this hash.

        Raises:
            CropMissing: the file cannot be read, or its bytes have changed on the disk.
        """
        try:
            with open_regular(self.path(sha256)) as file:
                data = file.read()
        except OSError as error:
            raise CropMissing(f"the stored crop {sha256} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise CropMissing(f"the stored crop {sha256} has changed on the disk")
        return data

    def delete(self, sha256: str) -> None:
        """Delete the crop of this hash, and the temporary files of its interrupted writes."""
        path = self.path(sha256)
        for file in (path, *path.parent.glob(f".{sha256}.*.tmp")):
            with suppress(FileNotFoundError):
                num_bytes = file.stat().st_size
                file.unlink()
                if file is path:
                    self._grow(-num_bytes)
                sync_dir(path.parent)

    def paths(self) -> Iterator[Path]:
        """Return the files of all stored crops."""
        return self._root.glob("??/??/" + "[0-9a-f]" * 64)

    def unfinished(self) -> Iterator[Path]:
        """Return the temporary files of interrupted writes; no row of the database refers to their bytes."""
        for path in self._root.glob("??/??/.*.tmp"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > UNFINISHED_S:
                    yield path

    def num_bytes(self) -> int:
        """Return the bytes of all stored crops, which are looked up one by one."""
        total = 0
        for path in self.paths():
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def path(self, sha256: str) -> Path:
        """Return the path of the crop of this hash, stored or not."""
        return self._root / sha256[:2] / sha256[2:4] / sha256

    def _grow(self, num_bytes: int) -> None:
        with self._lock:
            self._growth += num_bytes


def _holds(path: Path, data: bytes) -> bool:
    """Tell whether a file has exactly these bytes; a file may be damaged, or changed by hand."""
    try:
        status = path.stat()
        if status.st_size != len(data) or not S_ISREG(status.st_mode):
            return False
        with open_regular(path) as file:
            return file.read() == data
    except FileNotFoundError:
        return False


def _write(path: Path, data: bytes) -> None:
    """Write a crop; write it again if a concurrent `delete` of the same hash removes the temporary file."""
    for tries_left in range(MAX_WRITES - 1, -1, -1):
        try:
            write_atomically(path, data)
        except FileNotFoundError:
            if not tries_left:
                raise
        else:
            return
