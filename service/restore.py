"""What `reid restore` does: make the gallery of a backup anew, in an empty folder and an empty database.

The whole file is verified first, and what must be forgotten is taken out of a copy of the tables. Then crops
and networks are written, and last the database, in one transaction: after a crash it is empty, and the same
command works again. Nothing that is there is ever overwritten.
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from sqlalchemy import URL, Connection, Engine, func, inspect, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from model.files import write_atomically
from service.backup_file import TABLES, About, Member, chunks_of, read_member, torn, verify
from service.database import known_schemas, make_engine, migrate, schema_of
from service.errors import RestoreRefused
from service.receipts import Receipt, forget
from service.settings import Settings
from service.storage import CropStore
from service.table_copy import copy_tables, pages
from service.tables import Gallery, Item, Model, Table, new_id

WORKSPACE = ".restoring-"

Members = dict[str, Member]


def restore(settings: Settings, path: Path, receipts: Sequence[Receipt] = ()) -> tuple[About, int]:
    """Restore a backup; return what it is of, and how many items of it the receipts have erased.

    Raises:
        RestoreRefused: the file is torn or of a later version, or there is something already; nothing is
            changed.
        OSError: something cannot be read or written; the database is still empty.
    """
    _refuse_unless_empty(settings.database_url)
    with path.open("rb") as file:
        about, members = verify(file)
        with _workspace(settings.data_dir) as folder:
            engine = make_engine(URL.create("sqlite", database=str(folder / TABLES)))
            try:
                _extract(file, members[TABLES], folder / TABLES)
                _bring_up(engine)
                num_forgotten = _prepare(engine, about, members, receipts)
                _write_files(settings, engine, file, members)
                _fill(settings.database_url, engine)
            finally:
                engine.dispose()
    return about, num_forgotten


@contextmanager
def _workspace(data_dir: Path) -> Iterator[Path]:
    """Make a folder for a copy of the tables, in the data folder, which goes too if nothing else is in it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    for left_by_a_crash in data_dir.glob(f"{WORKSPACE}*"):
        shutil.rmtree(left_by_a_crash)
    try:
        with TemporaryDirectory(prefix=WORKSPACE, dir=data_dir) as folder:
            yield Path(folder)
    finally:
        with suppress(OSError):
            data_dir.rmdir()


def _extract(file: BinaryIO, member: Member, target: Path) -> None:
    with target.open("xb") as copy:
        for chunk in chunks_of(file, member):
            copy.write(chunk)


def _bring_up(engine: Engine) -> None:
    """Give the copy the schema of this program.

    Raises:
        RestoreRefused: if it is none of ours, or of a later version.
    """
    try:
        with engine.connect() as connection:
            schema = schema_of(connection)
        if schema not in known_schemas():
            raise RestoreRefused(f"it has schema {schema}, which is of a later version of this program")
        migrate(engine)
    except SQLAlchemyError as error:
        raise torn(f"{TABLES} is no database of a gallery") from error


def _prepare(engine: Engine, about: About, members: Members, receipts: Sequence[Receipt]) -> int:
    """See to it that the tables name the files that are there, and forget what must be."""
    with engine.begin() as copy:
        named = {f"crops/{sha256}" for sha256 in copy.scalars(select(Item.sha256).distinct())}
        missing = sorted(named - members.keys())
        if len(missing) != about.missing_crops:
            raise torn(f"{missing[0] if missing else 'a crop'} is missing")
        for version, filename in copy.execute(select(Model.version, Model.filename)):
            if _model_name(version) not in members or filename != f"{version}.safetensors":
                raise torn(f"{_model_name(version)} is missing")
        return forget(copy, receipts)


def _write_files(settings: Settings, engine: Engine, file: BinaryIO, members: Members) -> None:
    """Write the networks, and the crops that an item of the copy shows."""
    with engine.connect() as copy:
        crops = set(copy.scalars(select(Item.sha256).distinct()))
        models = copy.execute(select(Model.version, Model.filename)).all()
    store = CropStore(settings.crops_dir)
    for path in store.paths():
        if path.name not in crops:
            raise RestoreRefused(
                f"the data folder has crops of another gallery, as {path}: give an empty one"
            )
    for page in pages(sorted(crops)):
        there = [members[f"crops/{sha256}"] for sha256 in page if f"crops/{sha256}" in members]
        store.put_all(partial(_checked, file, member, store) for member in there)
    for model in models:
        content = read_member(file, members[_model_name(model.version)])
        _write_model(settings.models_dir / model.filename, content)


def _checked(file: BinaryIO, member: Member, store: CropStore) -> bytes:
    """Read a crop once more; it may have changed since it was verified, or there may be another."""
    sha256 = member.name.removeprefix("crops/")
    content = read_member(file, member)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise torn(f"{member.name} has changed while it was read")
    if store.has(sha256):
        store.get(sha256)
    return content


def _write_model(path: Path, content: bytes) -> None:
    if not path.exists():
        write_atomically(path, content)
    elif path.read_bytes() != content:
        raise RestoreRefused(f"{path} is there already, and is not the one of the backup")


def _model_name(version: str) -> str:
    return f"models/{version}.safetensors"


def _fill(database_url: str, engine: Engine) -> None:
    """Copy the tables into the new database, all at once; it is a gallery of its own from now on."""
    live = make_engine(database_url)
    try:
        migrate(live)
        with (
            engine.connect() as copy,
            live.execution_options(sqlite_begin="IMMEDIATE").begin() as target,
        ):
            target.execute(select(Gallery.newest_change).with_for_update())
            _refuse_rows(target)
            copy_tables(copy, target)
            target.execute(update(Gallery).values(id=new_id()))
    finally:
        live.dispose()


def _refuse_unless_empty(database_url: str) -> None:
    """See to it that the database has no gallery, or one that nothing has happened in."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            _refuse_rows(connection)
    finally:
        engine.dispose()


def _refuse_rows(connection: Connection) -> None:
    there = set(inspect(connection).get_table_names())
    for table in Table.metadata.sorted_tables:
        if table.name == Gallery.__tablename__ or table.name not in there:
            continue
        if num := connection.scalar(select(func.count()).select_from(table)):
            raise RestoreRefused(
                f"the database is not empty, it has {num} {table.name.replace('_', ' ')}:"
                " restore into a new one, and a new data folder"
            )
