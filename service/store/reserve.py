"""A file that keeps some room beside the SQLite database, so that items can be deleted on a full disk.

SQLite writes a deletion to its log before the deletion makes any room. So the reserve is given up before a
deletion on a full disk, and made again once there is room.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import structlog

logger = structlog.get_logger(__name__)

MAX_BYTES = 4 * 1024 * 1024
MIN_BYTES = 256 * 1024
SHARE = 8
"""The reserve takes at most this part of the free room."""


class Reserve:
    """The reserve of one database.

    Args:
        database: the SQLite file, or None for another database, which has its own disk.
    """

    def __init__(self, database: Path | None) -> None:
        self._path = database and database.with_name(f"{database.name}-reserve")

    def keep(self) -> None:
        """Make the reserve, unless it is there or there is no room for it."""
        if self._path is None or self._path.exists():
            return
        num_bytes = min(MAX_BYTES, shutil.disk_usage(self._path.parent).free // SHARE)
        if num_bytes < MIN_BYTES:
            return
        try:
            with self._path.open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
        except FileExistsError:  # another process was quicker
            return
        except OSError:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def release_if_full(self) -> None:
        """Give the reserve up if there is less room than a deletion may need."""
        if self._path is None or not self._path.exists():
            return
        with suppress(OSError):  # the deletion itself says what is wrong with the folder
            if shutil.disk_usage(self._path.parent).free < MAX_BYTES:
                self._path.unlink()
                logger.warning("the disk is full, the reserve is given up so that items can be deleted")
