"""Folders for the copy of a gallery that a backup or a restore works with, and what kills leave of them.

Such a copy has names and embeddings in it. Whoever works in a folder holds the lock in it, which ends with
the process: a folder whose lock is free is abandoned, and goes.
"""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

RESTORING = ".restoring-"
BACKING_UP = ".reid-backup-"
LOCK = "lock"


@contextmanager
def workspace(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder to work in, which goes at the end; abandoned ones beside it go at once."""
    remove_abandoned(parent, prefix)
    folder = Path(mkdtemp(prefix=".new-", dir=parent))
    try:
        with (folder / LOCK).open("xb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder = folder.rename(folder.with_name(folder.name.replace(".new-", prefix, 1)))
            yield folder
    finally:
        shutil.rmtree(folder)


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove the folders that nobody works in any more."""
    for folder in parent.glob(f"{prefix}*"):
        if _is_abandoned(folder):
            with suppress(FileNotFoundError):  # another process was quicker
                shutil.rmtree(folder)


def _is_abandoned(folder: Path) -> bool:
    try:
        with (folder / LOCK).open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
