"""The crops' bytes on disk, each under its SHA-256, written so that a crash leaves a whole file or none."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from model.files import sync_dir, write_atomically
from service.errors import CropMissing

PARALLEL_WRITES = 8
UNFINISHED_S = 600
"""No write of a crop takes so long."""
MAX_WRITES = 5


class CropStore:
    """Keeps bytes under `root`/ab/cd/<sha256>; equal bytes are kept once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, data: bytes) -> str:
        """Keep the bytes and return their SHA-256; they are on the disk when this returns."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        if not _holds(path, data):
            _write(path, data)
        for directory in (path.parent, path.parent.parent, self._root):
            sync_dir(directory)  # always: whoever has made them may not have come to it yet
        return sha256

    def put_all(self, readers: Iterable[Callable[[], bytes]]) -> None:
        """Keep what these return; at once, as each waits for the disk, which can take them together."""
        with ThreadPoolExecutor(PARALLEL_WRITES) as threads:
            for _ in threads.map(lambda read: self.put(read()), readers):
                pass

    def has(self, sha256: str) -> bool:
        """Tell whether the bytes of this hash are kept."""
        return self.path(sha256).exists()

    def get(self, sha256: str) -> bytes:
        """Return the bytes of this hash.

        Raises:
            CropMissing: if they are gone or have changed on the disk.
        """
        try:
            data = self.path(sha256).read_bytes()
        except OSError as error:
            raise CropMissing(f"the stored crop {sha256} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise CropMissing(f"the stored crop {sha256} has changed on the disk")
        return data

    def remove(self, sha256: str) -> None:
        """Delete the bytes of this hash, and what is left of writes of it that were cut short."""
        path = self.path(sha256)
        for left in (path, *path.parent.glob(f".{sha256}.*.tmp")):
            with suppress(FileNotFoundError):
                left.unlink()
                sync_dir(path.parent)

    def paths(self) -> Iterator[Path]:
        """Return the files of all crops that are kept."""
        return self._root.glob("??/??/" + "[0-9a-f]" * 64)

    def unfinished(self) -> Iterator[Path]:
        """Return what writes that were cut short long ago have left: they hold crops that nobody knows of."""
        for path in self._root.glob("??/??/.*.tmp"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > UNFINISHED_S:
                    yield path

    def path(self, sha256: str) -> Path:
        """Return where the bytes of this hash are or would be."""
        return self._root / sha256[:2] / sha256[2:4] / sha256


def _holds(path: Path, data: bytes) -> bool:
    """Tell whether a file has these bytes; it may be torn, or have been changed by hand."""
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False


def _write(path: Path, data: bytes) -> None:
    """Write a crop; when `remove` of the same bytes takes the unfinished file away, begin anew."""
    for tries_left in range(MAX_WRITES - 1, -1, -1):
        try:
            write_atomically(path, data)
        except FileNotFoundError:
            if not tries_left:
                raise
        else:
            return
