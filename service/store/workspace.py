"""Working folders of backups and restores, and the purge of folders that a killed process has left.

A working folder holds a copy of the gallery, with names and embeddings. The process that works in a folder
holds the lock file in it, and the lock ends with the process. So a folder whose lock is free is abandoned,
and is purged.
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
    """Make a working folder and delete it at the end; purge the abandoned folders beside it first."""
    purge_abandoned(parent, prefix)
    folder = Path(mkdtemp(prefix=".new-", dir=parent))
    try:
        with (folder / LOCK).open("xb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder = folder.rename(folder.with_name(folder.name.replace(".new-", prefix, 1)))
            yield folder
    finally:
        shutil.rmtree(folder)


def purge_abandoned(parent: Path, prefix: str) -> None:
    """Delete the working folders in `parent` whose process has ended."""
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
