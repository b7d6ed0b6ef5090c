"""The room for what requests add: on the disks, and in the gallery as REID_MAX_GALLERY_BYTES bounds it.

A request that adds to the gallery asks here before it writes, and is refused while the database still has
room to commit. Deletions, erasures, searches and the progress of jobs never ask, so they go on.
"""

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import structlog
from sqlalchemy import Engine, func, select

from service.errors import ServiceError, StorageFull
from service.settings import MEBIBYTE, Settings
from service.store.crops import CropStore
from service.store.database_file import file_of

logger = structlog.get_logger(__name__)

MIN_FREE_BYTES = 256 * MEBIBYTE
"""The free room that is left by default. A transaction of 300,000 rows takes as much, in the database and its
log; the few transactions that may be larger ask for their room."""

MIN_FREE_SHARE = 20
"""On a small disk a twentieth of the disk is left instead, by default."""

REST_SHARE = 20
"""The pause until crops are measured again is at least so many times as long as the measurement."""


@dataclass(frozen=True)
class Usage:
    """How much room there is.

    Attributes:
        free_bytes: free on the disk that has the least above its `min_free_bytes`.
        min_free_bytes: what stays free on that disk.
        gallery_bytes: crops, networks and database together; None without REID_MAX_GALLERY_BYTES.
        max_gallery_bytes: REID_MAX_GALLERY_BYTES.
        is_full: whether requests that add to the gallery are refused.
    """

    free_bytes: int
    min_free_bytes: int
    gallery_bytes: int | None
    max_gallery_bytes: int | None
    is_full: bool


@dataclass(frozen=True)
class _Disk:
    """A disk of the gallery, named by its first folder."""

    folder: Path
    device: int
    free_bytes: int
    min_free_bytes: int


class Room:
    """The room of one gallery, as this process knows it.

    Free room is asked of the disks each time. The size of the gallery is exact for what this process writes
    and deletes. What other processes do counts from the next measurement on.

    Args:
        settings: the settings of this process.
        crops: the crops of the gallery.
        engine: the database.
    """

    def __init__(self, settings: Settings, crops: CropStore, engine: Engine) -> None:
        file = file_of(engine)
        self._database = None if file is None else file.path
        self._engine = engine
        self._settings = settings
        self._crops = crops
        folders = [settings.data_dir, settings.models_dir, *([file.path.parent] if file else [])]
        self._folders = tuple(dict.fromkeys(folders))
        self._lock = Lock()
        self._measured: int | None = None
        self._database_bytes = 0
        self._next_s = 0.0
        self._was_full = False

    def require(self, wanted: Mapping[Path, int] | None = None) -> None:
        """Check that so many bytes may be written into these folders, or anything at all.

        Raises:
            StorageFull: a disk would have less than REID_MIN_FREE_BYTES left, or the gallery would have more
                than REID_MAX_GALLERY_BYTES.
        """
        self.require_free(wanted or {})
        size, most = self._gallery_bytes(), self._settings.max_gallery_bytes
        if size is not None and most is not None and size + sum((wanted or {}).values()) > most:
            raise StorageFull(
                f"the gallery has {size:,} bytes of the {most:,} that REID_MAX_GALLERY_BYTES allows; delete "
                "items or networks, or raise the setting"
            )

    def require_free(self, wanted: Mapping[Path, int]) -> None:
        """Check that so many bytes, which do not count for the gallery, may be written into these folders.

        Raises:
            StorageFull: a disk would have less than REID_MIN_FREE_BYTES left.
        """
        by_device = Counter[int]()
        for folder, num_bytes in wanted.items():
            by_device[_device_of(folder)] += num_bytes
        for disk in self._disks():
            if disk.free_bytes < disk.min_free_bytes + by_device[disk.device]:
                raise StorageFull(
                    f"there is no room left for the data folder: the disk of {disk.folder.absolute()} has "
                    f"{disk.free_bytes:,} bytes free, of which {disk.min_free_bytes:,} stay free "
                    "(REID_MIN_FREE_BYTES); make room, and send the request again"
                )

    def require_in_database(self, num_bytes: int) -> None:
        """Check that the database may grow by so many bytes, as `require` does."""
        self.require({(self._database or self._settings.data_dir).parent: num_bytes})

    def require_for_body(self, target: Path, num_bytes: int, num_copies: int) -> None:
        """Check that the body of a request may be kept in temporary files, and its content in a folder.

        The content may be in the gallery already, so the gallery is refused only if it is full already.

        Args:
            target: the folder where the content will be kept.
            num_bytes: the length of the body.
            num_copies: how many temporary files hold the body at a time.

        Raises:
            StorageFull: as for `require`, or the folder of temporary files has no room for the body.
        """
        self.require()
        temporary = Path(tempfile.gettempdir())
        wanted = Counter({target: num_bytes})
        wanted[temporary] += num_copies * num_bytes
        self.require_free(wanted)
        with suppress(OSError):  # the write itself says what is wrong with the folder
            if shutil.disk_usage(temporary).free < num_copies * num_bytes:
                raise StorageFull(
                    f"there is no room left for temporary files (TMPDIR), for {num_bytes:,} bytes; make "
                    "some, and send it again"
                )

    def usage(self) -> Usage:
        """Return how much room there is."""
        disks = list(self._disks())
        tightest = min(disks, key=lambda disk: disk.free_bytes - disk.min_free_bytes, default=None)
        size = self._gallery_bytes()
        return Usage(
            free_bytes=tightest.free_bytes if tightest else 0,
            min_free_bytes=tightest.min_free_bytes if tightest else 0,
            gallery_bytes=size,
            max_gallery_bytes=self._settings.max_gallery_bytes,
            is_full=bool(self._lack()),
        )

    def look(self) -> None:
        """Measure the gallery if that is due, and log once that new items are refused or taken again."""
        if self._settings.max_gallery_bytes is not None and time.monotonic() >= self._next_s:
            self._measure()
        lack = self._lack()
        if lack and not self._was_full:
            logger.warning("nothing is added to the gallery", reason=lack)
        elif self._was_full and not lack:
            logger.info("the gallery takes new items again")
        self._was_full = bool(lack)

    def _lack(self) -> str:
        """Return why nothing may be added, or an empty text."""
        try:
            self.require()
        except ServiceError as error:
            return str(error)
        return ""

    def _disks(self) -> Iterator[_Disk]:
        """Return the disks of the gallery; a folder that cannot be asked is left to the write itself."""
        seen = set()
        for folder in self._folders:
            with suppress(OSError):
                usage, device = shutil.disk_usage(folder), folder.stat().st_dev
                if device not in seen:
                    seen.add(device)
                    least = self._settings.min_free_bytes
                    if least is None:
                        least = min(MIN_FREE_BYTES, usage.total // MIN_FREE_SHARE)
                    yield _Disk(folder, device, usage.free, least)

    def _gallery_bytes(self) -> int | None:
        with self._lock:
            if self._measured is None:
                return None
            crops, database = self._measured + self._crops.growth, self._database_bytes
        if self._database is not None:
            name = self._database.name
            database = sum(_length_of(self._database.with_name(name + end)) for end in ("", "-wal"))
        return crops + database + _bytes_in(self._settings.models_dir)

    def _measure(self) -> None:
        started_s = time.monotonic()
        growth = self._crops.growth  # what is written meanwhile may count twice, until the next measurement
        crops = self._crops.num_bytes()
        database = 0
        if self._database is None:
            with self._engine.connect() as connection:
                size = func.pg_database_size(func.current_database())
                database = connection.scalar(select(size)) or 0
        with self._lock:
            self._measured, self._database_bytes = crops - growth, database
        ended_s = time.monotonic()
        self._next_s = ended_s + REST_SHARE * (ended_s - started_s)


def _device_of(folder: Path) -> int:
    """Return the disk of a folder, or of the folder in which it will be made."""
    for path in (folder, *folder.absolute().parents):
        with suppress(OSError):
            return path.stat().st_dev
    return -1


def _length_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _bytes_in(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    try:
        with os.scandir(folder) as entries:
            return sum(_length_of(Path(entry.path)) for entry in entries)
    except OSError:
        return 0
