"""What `reid backup` does: all of a gallery in one file, as it is at one moment, beside a running service.

The tables are read in one transaction into an SQLite file, whatever the database is. Crops are read after
them, so one may have been deleted with its items by then: these are taken out of the copy as well. A crop
that is gone though its items are there is an error.
"""

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from sqlalchemy import URL, Connection, Engine, func, select
from sqlalchemy.engine import make_url

from model.files import sync_dir
from service.backup_file import FORMAT, TABLES, About, BackupWriter
from service.database import known_schemas, make_engine, migrate, rewrite, schema_of
from service.errors import BackupFailed, CropMissing
from service.settings import Settings
from service.storage import CropStore
from service.table_copy import copy_tables, one_moment, take_out
from service.tables import Gallery, Identity, Item, Model, now

TRIES = 3
"""A crop may be put back, by a new item, just after it was not found."""

HINT = "--allow-missing makes a backup without what is gone; `reid check` names it all"


def back_up(settings: Settings, path: Path, *, force: bool = False, allow_missing: bool = False) -> About:
    """Write a backup of a gallery; the file is there when it is whole and on the disk, or not at all.

    Args:
        settings: of the gallery; a service may be running on it.
        path: of the file to write.
        force: overwrite a file that is there.
        allow_missing: leave out crops that are gone.

    Raises:
        BackupFailed: there is no gallery, or the file is there already, or something is missing.
        OSError: something cannot be read or written.
    """
    if path.exists() and not force:
        raise BackupFailed(f"{path} is there already: name another file, or overwrite it with --force")
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise BackupFailed(f"there is no gallery: {url.database} is not there")
    live = make_engine(url)
    try:
        with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            with temporary.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                about = _write(settings, live, file, Path(folder) / "tables", allow_missing)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_dir(path.parent)
    finally:
        live.dispose()
    return about


def _write(settings: Settings, live: Engine, file: BinaryIO, tables: Path, allow_missing: bool) -> About:
    created_at = now()
    writer = BackupWriter(file, int(created_at.timestamp()))
    engine = make_engine(URL.create("sqlite", database=str(tables)))
    try:
        with one_moment(live) as source:
            schema = _checked_schema(source)
            migrate(engine)
            with engine.begin() as copy:
                copy_tables(source, copy)
        with engine.begin() as copy:
            num_crops, num_missing = _add_crops(
                writer, CropStore(settings.crops_dir), live, copy, allow_missing
            )
            models = copy.execute(select(Model.version, Model.filename)).all()
            about = About(
                format=FORMAT,
                program=version("reid-gallery"),
                schema=schema,
                created_at=created_at.isoformat(),
                newest_change=copy.scalars(select(Gallery.newest_change)).one(),
                items=copy.scalar(select(func.count()).select_from(Item)) or 0,
                identities=copy.scalar(select(func.count()).select_from(Identity)) or 0,
                crops=num_crops,
                models=len(models),
                missing_crops=num_missing,
                left_out=("kept answers", "jobs that have not ended, and their files"),
            )
        rewrite(engine, 0)  # what was taken out leaves no trace in the file
    finally:
        engine.dispose()
    for model in models:
        _add_model(writer, settings.models_dir / model.filename, model.version)
    writer.add_file(TABLES, tables)
    writer.finish(about)
    return about


def _checked_schema(source: Connection) -> str:
    """Return the schema of a gallery.

    Raises:
        BackupFailed: if it is not the one of this program.
    """
    schema, (newest, *_) = schema_of(source), known_schemas()
    if schema is None:
        raise BackupFailed("there is no gallery in this database")
    if schema != newest:
        raise BackupFailed(
            f"the database has schema {schema}, and this program {newest}: take the program that serves it,"
            " or start `reid serve` of this one first"
        )
    return schema


def _add_crops(
    writer: BackupWriter, crops: CropStore, live: Engine, copy: Connection, allow_missing: bool
) -> tuple[int, int]:
    """Add the crops that the copy shows, and return how many, and how many are missing."""
    num = num_missing = 0
    for sha256 in copy.scalars(select(Item.sha256).distinct().order_by(Item.sha256)).all():
        try:
            content = _read(crops, live, copy, sha256)
        except CropMissing as error:
            if not allow_missing:
                item_id = copy.scalar(select(Item.id).where(Item.sha256 == sha256).limit(1))
                raise BackupFailed(f"item {item_id}: {error}; {HINT}") from error
            num_missing += 1
            continue
        if content is None:
            take_out(copy, _slots_of(copy, sha256))
        else:
            writer.add(f"crops/{sha256}", content)
            num += 1
    return num, num_missing


def _read(crops: CropStore, live: Engine, copy: Connection, sha256: str) -> bytes | None:
    """Return the bytes of a crop, or None if its items have been deleted since the tables were copied.

    Raises:
        CropMissing: if it is gone or has changed, and its items are there.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return crops.get(sha256)
        except CropMissing:
            with live.connect() as connection:
                alive = set(_slots_of(connection, sha256))
            if alive.isdisjoint(_slots_of(copy, sha256)):
                return None
            if attempt == TRIES:
                raise
    raise AssertionError("the last try returns or raises")


def _slots_of(connection: Connection, sha256: str) -> Sequence[int]:
    return connection.scalars(select(Item.slot).where(Item.sha256 == sha256)).all()


def _add_model(writer: BackupWriter, path: Path, model_version: str) -> None:
    """Add a network.

    Raises:
        BackupFailed: if its file is gone or has changed.
    """
    try:
        sha256 = writer.add_file(f"models/{model_version}.safetensors", path)
    except FileNotFoundError as error:
        raise BackupFailed(f"the network {model_version} is gone: {path} is not there") from error
    if not sha256.startswith(model_version):
        raise BackupFailed(f"the network {model_version} has changed on the disk: {path}")
