"""Backup and restore: one file holds the tables, the crops and the networks of a gallery.

A backup is made beside a running server. One read transaction copies the tables of any database into an
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
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, Select, delete, func, select, update
from sqlalchemy.orm import Session

from model.files import sync_dir, write_atomically
from service.errors import BadBackup, CropMissing, NotEmpty
from service.gallery.items import delete_empty_identities
from service.people.erasure import Receipt, reapply
from service.settings import Settings
from service.store.crops import CropStore
from service.store.database import (
    known_schemas,
    make_engine,
    make_sessions,
    migrate,
    require_file,
    rewrite,
    schema_of,
)
from service.store.store import Store
from service.store.tables import Gallery, Identity, Item, Model, new_id, now
from service.store.workspace import BACKING_UP, RESTORING, workspace
from service.upkeep.backup_file import ABOUT, CHUNK, KNOWN, SUMS, TABLES, Writer, members, sums_of, verify
from service.upkeep.table_copy import copy_tables, one_moment

FORMAT = 1
MISSING_HINT = "`reid check` tells of all such, and --allow-missing makes a backup without them"
CROPS_AT_ONCE = 64


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
    """
    require_file(settings.database_url)
    engine = make_engine(settings.database_url)
    with engine.connect() as connection:
        schema, (newest, *_) = schema_of(connection), known_schemas()
    if schema == newest:
        return Store(settings, make_sessions(engine))
    engine.dispose()
    if schema is None:
        raise BadBackup("there is no gallery in this database")
    hint = "use the program that serves it, or start this one's `reid serve` first"
    raise BadBackup(f"the database has schema {schema}, and this program {newest}: {hint}")


def _copy_out(source: Engine, path: Path) -> None:
    """Copy the tables, all as of one moment, into a new SQLite file."""
    with _opened(path) as target, one_moment(source) as reader, target.begin() as writer:
        copy_tables(reader, writer)


def _write(store: Store, copy: Path, writer: Writer, allow_missing: bool) -> Contents:
    with _opened(copy) as engine, Session(engine) as session:
        gone, num_missing = [], 0
        for sha256 in _crops(session):
            try:
                if not _write_crop(store, writer, session, sha256):
                    gone.append(sha256)
            except CropMissing as error:
                if not allow_missing:
                    raise CropMissing(f"{error}; {MISSING_HINT}") from error
                num_missing += 1
        _delete_items(session, gone)
        session.commit()
        if gone:
            rewrite(engine, patience_s=0)  # the items may have been erased, so the file must not keep traces
        for model in session.scalars(select(Model).order_by(Model.version)).all():
            path = store.settings.models_dir / model.filename
            if not path.exists():
                raise CropMissing(f"the file of model version {model.version} is gone: {path}")
            writer.add_file(f"models/{model.filename}", path)
        contents = replace_fields(_contents(session), num_missing=num_missing)
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


def _crops(session: Session) -> Sequence[str]:
    return session.scalars(select(Item.sha256).where(Item.has_crop).distinct().order_by(Item.sha256)).all()


def _write_crop(store: Store, writer: Writer, copy: Session, sha256: str) -> bool:
    """Write a crop, and tell whether that was possible.

    False if the crop was deleted together with all its items since the tables were copied.

    Raises:
        CropMissing: the crop is gone, although an item of the copy still needs the crop.
    """
    slots = select(Item.slot).where(Item.sha256 == sha256, Item.has_crop)
    for is_last in (
        False,
        False,
        True,
    ):  # a new item may bring the crop back just after the crop was not found
        try:
            writer.add(f"crops/{sha256}", store.crops.get(sha256))
        except CropMissing:
            with store.read() as session:
                alive = set(session.scalars(slots))
            if alive.isdisjoint(copy.scalars(slots)):
                return False
            if is_last:
                raise
        else:
            return True
    raise AssertionError("the last try returns or raises")


def _delete_items(session: Session, sha256s: Iterable[str]) -> None:
    """Delete the items of crops that have gone since the tables were copied."""
    for sha256 in sha256s:
        shown = Item.sha256 == sha256, Item.has_crop
        rows = session.execute(select(Item.id, Item.identity_key).where(*shown)).all()
        ids = [row.id for row in rows]
        session.execute(update(Item).where(Item.duplicate_of.in_(ids)).values(duplicate_of=None))
        session.execute(delete(Item).where(*shown))
        delete_empty_identities(session, {row.identity_key for row in rows})


def _contents(session: Session, num_erased: int = 0) -> Contents:
    def count(statement: Select[int]) -> int:
        return session.scalar(statement) or 0

    return Contents(
        count(select(func.count()).select_from(Item)),
        count(select(func.count(Item.sha256.distinct())).where(Item.has_crop)),
        count(select(func.count()).select_from(Model)),
        num_erased,
    )


def restore(settings: Settings, path: Path, receipts: Iterable[Receipt] = ()) -> Contents:
    """Restore a backup into an empty data folder and database.

    The rows are written last and in one transaction, so an interrupted restore can be repeated.

    Args:
        settings: the data folder and the database to restore into.
        path: the backup.
        receipts: erasures after the backup; their items are not restored.

    Raises:
        BadBackup: the file is torn, or written by a newer version of this program; nothing is written.
        NotEmpty: the data folder or the database holds a gallery; nothing is written.
    """
    verify(path)
    engine = make_engine(settings.database_url)
    try:
        migrate(engine)
        with Session(engine) as session:
            _require_empty(session)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        with workspace(settings.data_dir, RESTORING) as folder:
            copy = folder / TABLES
            _extract_tables(path, copy)
            with _opened(copy) as source:
                num_erased = _erase(settings, folder, source, receipts)
                with Session(source) as session:
                    _check_models(session, path)
                    wanted = set(_crops(session))
                    contents = _contents(session, num_erased)
                _write_files(settings, path, wanted)
                _copy_in(source, engine)
    finally:
        engine.dispose()
    return contents


def _extract_tables(path: Path, copy: Path) -> None:
    """Extract the tables of a backup into a file, and migrate them to the schema of this program.

    Raises:
        BadBackup: the tables have a newer schema.
    """
    for name, file in members(path):
        if name == TABLES:
            with copy.open("wb") as target:
                while chunk := file.read(CHUNK):
                    target.write(chunk)
    engine = make_engine(f"sqlite:///{copy}")
    with engine.connect() as connection:
        revision = schema_of(connection)
    engine.dispose()
    if revision not in known_schemas():
        raise BadBackup(f"{path} was written by a newer version of this program (schema {revision})")


def _erase(settings: Settings, folder: Path, source: Engine, receipts: Iterable[Receipt]) -> int:
    """Erase the items of the receipts from the copied tables, and return how many items were erased."""
    own = settings.model_copy(update={"data_dir": folder / "data"})
    applied = reapply(Store(own, make_sessions(source)), receipts)
    return sum(int(erasure.erased["items"]) for erasure in applied)


def _check_models(session: Session, path: Path) -> None:
    for model in session.scalars(select(Model)):
        if not KNOWN.fullmatch(f"models/{model.filename}"):
            raise BadBackup(f"{path} is damaged: a network has the file name {model.filename[:100]!r}")


def _require_empty(session: Session) -> None:
    for table in (Item, Identity, Model):
        if session.scalar(select(func.count()).select_from(table)):
            name = table.__tablename__
            raise NotEmpty(f"the database has {name} already; restore into an empty one, or choose another")


def _write_files(settings: Settings, path: Path, wanted: set[str]) -> None:
    """Write the networks, and the wanted crops.

    Raises:
        NotEmpty: the data folder has files of another gallery.
    """
    crops = CropStore(settings.crops_dir)
    for stored in crops.paths():
        if stored.name not in wanted:
            raise NotEmpty(f"the data folder has crops of another gallery, as {stored}; give an empty one")
    page: list[bytes] = []
    for name, file in members(path):
        folder, _, base = name.partition("/")
        if folder == "models":
            _write_model(settings.models_dir / base, file.read())
        elif folder == "crops" and base in wanted:
            page.append(file.read())
        if len(page) == CROPS_AT_ONCE:
            crops.put_all(partial(bytes, data) for data in page)
            page.clear()
    crops.put_all(partial(bytes, data) for data in page)


def _write_model(path: Path, data: bytes) -> None:
    if not path.exists():
        write_atomically(path, data)
    elif path.read_bytes() != data:
        raise NotEmpty(f"{path} is there already, and is not the one of the backup")


def _copy_in(source: Engine, target: Engine) -> None:
    """Copy all rows in one transaction; the gallery gets a new id, so that no old snapshot fits."""
    immediate = target.execution_options(sqlite_begin="IMMEDIATE")
    with source.connect() as reader, immediate.begin() as writer:
        writer.execute(select(Gallery).with_for_update())
        _require_empty(Session(writer))
        copy_tables(reader, writer)
        writer.execute(update(Gallery).values(id=new_id()))


@contextmanager
def _opened(path: Path) -> Iterator[Engine]:
    """Open an SQLite file, and create every table."""
    engine = make_engine(f"sqlite:///{path}")
    try:
        migrate(engine)
        yield engine
    finally:
        engine.dispose()


def read_receipts(content: str, name: str) -> list[Receipt]:
    """Read receipts from JSON: one receipt, a list of receipts, or an answer of GET /erasures.

    Raises:
        BadBackup: the content is none of these.
    """
    try:
        receipts = json.loads(content)
        if isinstance(receipts, dict):
            receipts = receipts.get("erasures", [receipts])
        return [
            Receipt(
                datetime.fromisoformat(one["at"]).astimezone(UTC),
                one["identity_sha256"],
                [str(item) for item in one["item_ids"]],
            )
            for one in receipts
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise BadBackup(f"{name} holds no receipts of erasures: {error!r}") from error
