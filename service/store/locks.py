"""Locks among the processes that work on one folder."""

from pathlib import Path

from filelock import FileLock, lock_descriptor


def lock_of(path: Path) -> FileLock:
    """Return the lock of a file, which one process or thread at a time holds.

    The kernel holds the lock, so the lock ends with its process, even with a killed one. A file system
    without such locks raises OSError. The fallback of filelock, a file that exists while the lock is held, is
    off: the file would outlive a killed process.
    """
    return FileLock(path, fallback_to_soft=False)


def is_locked(path: Path) -> bool:
    """Tell whether the lock of a file is held.

    Raises:
        OSError: the file is missing or cannot be opened.
    """
    with path.open("r+b") as file:  # to close the file ends the lock that this attempt may take
        return not lock_descriptor(file.fileno(), blocking=False)
