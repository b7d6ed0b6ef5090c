"""Writing files so that a crash or a power failure leaves no torn file, and naming a file for a card."""

import hashlib
import os
import secrets
from pathlib import Path


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that a reader always finds the old content or the new content.

    The new content goes to a temporary file beside the file, then to the disk, and then takes the name of the
    file. Folders that are missing are made.

    Raises:
        OSError: the file cannot be written; the old content is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_dir(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_dir(path: str | Path) -> None:
    """Write the names in a directory to the disk, so that new and renamed files survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe_file(path: str | Path) -> str:
    """Return the name of a file with the first 12 hex digits of its SHA-256, for a card."""
    path = Path(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    name = path.name.encode(errors="replace").decode()  # the name of a file need not be UTF-8, a card must be
    return f"{name} (SHA-256 {digest})"
