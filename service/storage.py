"""The crops' bytes on disk, each under its SHA-256, written so that a crash leaves a whole file or none."""

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from service.errors import CropMissing


class CropStore:
    """Keeps bytes under `root`/ab/cd/<sha256>; equal bytes are kept once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, data: bytes) -> str:
        """Keep the bytes and return their SHA-256; they are on the disk when this returns."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        _make_dirs(path.parent)
        if not path.exists():
            _write_whole(path, data)
        sync_dir(path.parent)
        return sha256

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
        """Delete the bytes of this hash, if they are there."""
        with suppress(FileNotFoundError):
            self.path(sha256).unlink()
            sync_dir(self.path(sha256).parent)

    def path(self, sha256: str) -> Path:
        """Return where the bytes of this hash are or would be."""
        return self._root / sha256[:2] / sha256[2:4] / sha256


def sync_dir(path: Path) -> None:
    """Make the names in a directory survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_dirs(path: Path) -> None:
    """Make a directory and its parents, each of them durable."""
    if path.is_dir():
        return
    _make_dirs(path.parent)
    path.mkdir(exist_ok=True)
    sync_dir(path.parent)


def _write_whole(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
