"""Backups of galleries, and the members of a backup file."""

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.settings import Settings
from service.store.database import make_engine, make_sessions, migrate
from service.store.store import Store
from service.upkeep.backup import Contents, backup, open_gallery
from service.upkeep.check import check

MakeSettings = Callable[..., Settings]


@contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    """Open the store of a gallery; its server may be running."""
    engine = make_engine(settings.database_url)
    migrate(engine)
    yield Store(settings, make_sessions(engine))
    engine.dispose()


def back_up(settings: Settings, path: Path, **options: bool) -> Contents:
    """Back up a gallery as `reid backup` does."""
    store = open_gallery(settings)
    try:
        return backup(store, path, **options)
    finally:
        store.sessions.engine.dispose()


def findings(settings: Settings) -> list[Any]:
    """Return the problems that `reid check` finds in a gallery."""
    with opened(settings) as store:
        return check(store, num_recomputed=10).findings


def places(path: Path) -> dict[str, tuple[int, int]]:
    """Return offset and length in bytes of each member of a backup."""
    with tarfile.open(path) as archive:
        return {info.name: (info.offset_data, info.size) for info in archive}


def abandon(folder: Path) -> None:
    """Leave a copy of the tables behind, as a killed backup or restore does."""
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "gallery.sqlite3").write_bytes(b"names and embeddings")
