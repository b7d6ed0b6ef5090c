"""The folder in which the workers of `reid serve` count together, so that each can answer for all.

prometheus_client maps the files of each worker into the worker's memory. On a full disk, the first write to a
new page of such a file would end the worker (SIGBUS). So the files lie in a file system in memory where the
machine has one. The folder belongs to one server and goes with it, because several servers may share a data
folder.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE, S_ISDIR

from service.metrics import FOLDER_VARIABLE
from service.store.workspace import workspace

MEMORY = Path("/dev/shm")  # noqa: S108 - what lies there is in a folder that only its own user can enter
PREFIX = ".reid-metrics-"
PRIVATE = 0o700


@contextmanager
def shared_metrics(cache_dir: Path, memory: Path = MEMORY) -> Iterator[None]:
    """Let the workers that are started in this context count into the files of one new, empty folder.

    Args:
        cache_dir: where the folder lies if the machine has no file system in memory.
        memory: where the file system in memory is, if there is one.
    """
    parent = _private_folder(memory) or cache_dir
    parent.mkdir(parents=True, exist_ok=True)
    with workspace(parent, PREFIX) as folder:
        os.environ[FOLDER_VARIABLE] = str(folder)  # before the library is imported: a worker inherits it
        try:
            yield
        finally:
            del os.environ[FOLDER_VARIABLE]


def _private_folder(memory: Path) -> Path | None:
    """Return a folder in memory that only this user can enter, or None; another user may hold its name."""
    folder = memory / f"reid-gallery-{os.geteuid()}"
    try:
        folder.mkdir(PRIVATE, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    is_private = S_ISDIR(status.st_mode) and S_IMODE(status.st_mode) == PRIVATE
    return folder if is_private and status.st_uid == os.geteuid() else None
