"""Restore: put a backup into an empty data folder and database."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from alembic.util import CommandError
from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.exc import DataError, IntegrityError, NoResultFound
from sqlalchemy.orm import Session

from model.files import write_atomically
from service.audit.secret import secret_file
from service.errors import BadBackup, NotEmpty
from service.people.receipts import Receipt, apply_receipts
from service.settings import Settings
from service.store.crops import CropStore
from service.store.database import (
    known_schemas,
    make_engine,
    make_sessions,
    migrate,
    schema_of,
    sqlite_url,
)
from service.store.folder import DataFolder
from service.store.store import Store
from service.store.tables import Gallery, Identity, Item, Model, new_id
from service.store.workspace import RESTORING, workspace
from service.upkeep.backup import Contents, contents_of, crops_of, opened
from service.upkeep.backup_file import CHUNK, KNOWN, TABLES, members, verify
from service.upkeep.table_copy import copy_tables

CROPS_AT_ONCE = 64
UNREADABLE = (ValueError, CommandError, DataError, IntegrityError, NoResultFound)
"""Exceptions for rows that are of other types than ours, or that refer to rows which are not there."""


def restore(settings: Settings, path: Path, receipts: Iterable[Receipt] = ()) -> Contents:
    """Restore a backup into an empty data folder and database.

    The rows are written last and in one transaction, so an interrupted restore can be repeated.

    Args:
        settings: the data folder and the database to restore into.
        path: the backup.
        receipts: erasures after the backup; their items are not restored.

    Raises:
        BadBackup: the file is torn, was written by a newer version of this program, or has rows that cannot
            be read; no row is written.
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
            with opened(copy) as source:
                num_erased = _erase(settings, folder, source, receipts)
                with Session(source) as session:
                    _check_models(session, path)
                    wanted = set(crops_of(session))
                    contents = contents_of(session, num_erased)
                _write_files(settings, path, wanted)
                _copy_in(source, engine, DataFolder(settings.data_dir))
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0][:200]
        raise BadBackup(f"{path} is damaged: its tables cannot be read: {reason}") from error
    finally:
        engine.dispose()
    return contents


def _extract_tables(path: Path, copy: Path) -> None:
    """Extract the tables of a backup into a file, and migrate them to the schema of this program.

    Raises:
        BadBackup: the tables have a newer schema, or a view or trigger, which would be run.
    """
    for name, file in members(path):
        if name == TABLES:
            with copy.open("wb") as target:
                while chunk := file.read(CHUNK):
                    target.write(chunk)
    engine = make_engine(sqlite_url(copy))
    with engine.connect() as connection:
        revision = schema_of(connection)
        code = connection.scalar(text("SELECT name FROM sqlite_master WHERE type IN ('view', 'trigger')"))
    engine.dispose()
    if code is not None:
        raise BadBackup(f"{path} has a view or trigger, which would be run")
    if revision is None:
        raise BadBackup(f"the tables in {path} are not those of a gallery")
    if revision not in known_schemas():
        raise BadBackup(f"{path} was written by a newer version of this program (schema {revision})")


def _erase(settings: Settings, folder: Path, source: Engine, receipts: Iterable[Receipt]) -> int:
    """Erase the items of the receipts from the copied tables, and return how many items were erased."""
    secret = secret_file(settings)  # not one in the folder, which is deleted
    own = settings.model_copy(update={"data_dir": folder / "data", "audit_key_file": secret})
    applied = apply_receipts(Store(own, make_sessions(source)), receipts)
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


def _copy_in(source: Engine, target: Engine, folder: DataFolder) -> None:
    """Copy all rows in one transaction; the gallery gets a new id, so that no old snapshot fits.

    The folder gets its mark before the commit, so that a restore that is interrupted here can be repeated.
    """
    gallery_id = new_id()
    immediate = target.execution_options(sqlite_begin="IMMEDIATE")
    with source.connect() as reader, immediate.begin() as writer:
        writer.execute(select(Gallery).with_for_update())
        _require_empty(Session(writer))
        copy_tables(reader, writer)
        writer.execute(update(Gallery).values(id=gallery_id))
        folder.give_to(gallery_id)


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
