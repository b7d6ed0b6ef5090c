"""Writing files so that a crash leaves no torn file, opening regular files, and names of files."""

import errno
import hashlib
import os
import secrets
import stat
from io import BufferedReader
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


def from_home(path: str | Path | None) -> Path | None:
    """Read `~/` as the home folder: no shell does so within quotes, and bash does not do so after `--out=`.

    >>> from_home("a/~/b"), from_home("~/a") == Path.home() / "a", from_home(None)
    (PosixPath('a/~/b'), True, None)
    """
    if path is None:
        return None
    path = Path(path)
    return path.expanduser() if path.parts[:1] == ("~",) else path


def open_regular(path: str | Path) -> BufferedReader:
    """Open a file for reading, and nothing else that may have its name.

    To open or read a FIFO may wait for ever, and a device such as /dev/zero never ends.

    Raises:
        OSError: the file is missing, cannot be read, or is no regular file; links are followed.
    """
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - the caller closes the file
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EIO, "not a regular file", str(path))
    return file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


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
