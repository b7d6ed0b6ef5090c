"""Working folders of backups and restores, and the purge of folders that a killed process has left.

A working folder holds a copy of the gallery, with names and embeddings. The process that works in a folder
holds the lock file in it, and the lock ends with the process. So a folder whose lock is free is abandoned,
and is purged.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from service.store.locks import is_locked, lock_of

RESTORING = ".restoring-"
BACKING_UP = ".reid-backup-"
LOCK = "lock"


@contextmanager
def workspace(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a working folder and delete it at the end; purge the abandoned folders beside it first."""
    purge_abandoned(parent, prefix)
    folder = Path(mkdtemp(prefix=".new-", dir=parent))
    try:
        with lock_of(folder / LOCK):
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
        return not is_locked(folder / LOCK)
    except FileNotFoundError:
        return True
    except OSError:
        return False
