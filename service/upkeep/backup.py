"""Backup: one file holds the tables, the crops and the networks of a gallery.

A backup can be made while a server runs. One read transaction copies the tables of any database into an
SQLite file, and a restore copies them into any database, so a gallery can move between databases. The crops
are read after the tables. An item that the server deletes in between is deleted from the copy too. The last
member of the file holds the SHA-256 of every other member, so a torn or damaged file is recognised.
"""

import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from pathlib import Path

from sqlalchemy import Engine, Select, delete, func, select, update
from sqlalchemy.orm import Session

from model.files import sync_dir
from service.errors import BadBackup, CropMissing
from service.gallery.items import delete_empty_identities
from service.settings import Settings
from service.store.audit_tables import AuditQuery
from service.store.database import (
    known_schemas,
    make_engine,
    make_sessions,
    migrate,
    require_file,
    rewrite,
    schema_of,
    sqlite_url,
)
from service.store.store import Store
from service.store.tables import Gallery, Item, Model, now
from service.store.workspace import BACKING_UP, workspace
from service.upkeep.backup_file import ABOUT, SUMS, TABLES, Writer, sums_of
from service.upkeep.claim import check_folder
from service.upkeep.table_copy import copy_tables, one_moment

FORMAT = 1
MISSING_HINT = "`reid check` lists all missing crops, and --allow-missing makes a backup without them"


@dataclass(frozen=True)
class Contents:
    """How much a backup holds, or how much of a backup was restored."""

    num_items: int
    num_crops: int
    num_models: int
    num_erased: int = 0
    num_missing: int = 0


def backup(store: Store, path: Path, *, replace: bool = False, allow_missing: bool = False) -> Contents:
    """Write a gallery to one file, which appears whole or not at all.

    Args:
        store: the gallery.
        path: the file to write.
        replace: whether an existing file is replaced.
        allow_missing: whether a backup is made although crops are gone from the disk.

    Raises:
        BadBackup: the file exists, and must not be replaced.
        CropMissing: a crop or the file of a network is gone from the disk; `reid check` lists all of them.
    """
    if path.exists() and not replace:
        raise BadBackup(f"{path} is there already; choose another name, or replace it with --force")
    with workspace(path.parent, BACKING_UP) as folder:
        with (folder / "backup").open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            copy = folder / TABLES
            _copy_out(store.sessions.engine, copy)
            with tarfile.open(fileobj=file, mode="w") as archive:
                contents = _write(store, copy, Writer(archive), allow_missing)
            file.flush()
            os.fsync(file.fileno())
        (folder / "backup").replace(path)
        sync_dir(path.absolute().parent)
    return contents


def open_gallery(settings: Settings) -> Store:
    """Open a gallery for a backup; nothing is created, and the schema stays as it is.

    Raises:
        BadSettings: there is no such database file.
        BadBackup: the database holds no gallery, or has a schema of another version of this program.
        OtherGallery: the data folder belongs to another gallery.
    """
    require_file(settings.database_url)
    engine = make_engine(settings.database_url)
    try:
        with engine.connect() as connection:
            schema, (newest, *_) = schema_of(connection), known_schemas()
        if schema == newest:
            store = Store(settings, make_sessions(engine))
            check_folder(store)
            return store
    except BaseException:
        engine.dispose()
        raise
    engine.dispose()
    if schema is None:
        raise BadBackup("there is no gallery in this database")
    hint = "use the program that serves the database, or migrate it with `reid serve` of this program first"
    raise BadBackup(f"the database has schema {schema}, and this program {newest}: {hint}")


def _copy_out(source: Engine, path: Path) -> None:
    """Copy the tables, all as of one moment, into a new SQLite file."""
    with opened(path) as target, one_moment(source) as reader, target.begin() as writer:
        copy_tables(reader, writer)


def _write(store: Store, copy: Path, writer: Writer, allow_missing: bool) -> Contents:
    with opened(copy) as engine, Session(engine) as session:
        gone, num_missing = [], 0
        for sha256 in crops_of(session):
            try:
                if not _write_crop(store, writer, session, sha256):
                    gone.append(sha256)
            except CropMissing as error:
                if not allow_missing:
                    raise CropMissing(f"{error}; {MISSING_HINT}") from error
                num_missing += 1
        _delete_gone(session, gone)
        session.commit()
        if gone:
            rewrite(engine, patience_s=0)  # the items may have been erased, so the file must not keep traces
        for model in session.scalars(select(Model).order_by(Model.version)).all():
            path = store.settings.models_dir / model.filename
            if not path.exists():
                raise CropMissing(f"the file of model version {model.version} is gone: {path}")
            writer.add_file(f"models/{model.filename}", path)
        contents = replace_fields(contents_of(session), num_missing=num_missing)
        newest = session.scalars(select(Gallery.newest_change)).one()
    about = {
        "format": FORMAT,
        "created_at": now().isoformat(),
        "newest_change": newest,
        "num_items": contents.num_items,
        "num_crops": contents.num_crops,
        "num_models": contents.num_models,
        "num_missing": num_missing,
    }
    writer.add_file(TABLES, copy)
    writer.add(ABOUT, json.dumps(about, indent=1).encode())
    writer.add(SUMS, sums_of(writer.sums))
    return contents


def crops_of(session: Session) -> Sequence[str]:
    """Return the hashes of the crops that items and the audit keep, in order."""
    of_items = select(Item.sha256).where(Item.has_crop)
    return sorted(session.scalars(of_items.union(select(AuditQuery.sha256))))


def _write_crop(store: Store, writer: Writer, copy: Session, sha256: str) -> bool:
    """Write a crop and return True, or return False if the crop is no longer needed.

    A crop is no longer needed if all its items and kept queries were deleted since the tables were copied.

    Raises:
        CropMissing: the crop is gone, although an item or a row of the copy still needs the crop.
    """
    slots = select(Item.slot).where(Item.sha256 == sha256, Item.has_crop)
    rows = select(-AuditQuery.sequence).where(AuditQuery.sha256 == sha256)
    users = slots.union_all(rows)
    # A crop that was not found is tried again, because a new item may have brought it back.
    for is_last in (False, False, True):
        try:
            writer.add(f"crops/{sha256}", store.crops.get(sha256))
        except CropMissing:
            with store.read() as session:
                alive = set(session.scalars(users))
            if alive.isdisjoint(copy.scalars(users)):
                return False
            if is_last:
                raise
        else:
            return True
    raise AssertionError("the last try returns or raises")


def _delete_gone(session: Session, sha256s: Iterable[str]) -> None:
    """Delete the items and kept queries whose crops have gone since the tables were copied."""
    for sha256 in sha256s:
        session.execute(delete(AuditQuery).where(AuditQuery.sha256 == sha256))
        shown = Item.sha256 == sha256, Item.has_crop
        rows = session.execute(select(Item.id, Item.identity_key).where(*shown)).all()
        ids = [row.id for row in rows]
        session.execute(update(Item).where(Item.duplicate_of.in_(ids)).values(duplicate_of=None))
        session.execute(delete(Item).where(*shown))
        delete_empty_identities(session, {row.identity_key for row in rows})


def contents_of(session: Session, num_erased: int = 0) -> Contents:
    """Count what the tables hold."""

    def count(statement: Select[int]) -> int:
        return session.scalar(statement) or 0

    return Contents(
        count(select(func.count()).select_from(Item)),
        count(select(func.count(Item.sha256.distinct())).where(Item.has_crop)),
        count(select(func.count()).select_from(Model)),
        num_erased,
    )


@contextmanager
def opened(path: Path) -> Iterator[Engine]:
    """Open an SQLite file, and create every table."""
    engine = make_engine(sqlite_url(path))
    try:
        migrate(engine)
        yield engine
    finally:
        engine.dispose()
