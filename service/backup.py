"""One file that holds a gallery: its tables, crops and networks; made beside a running server.

The tables are copied in one read transaction into an SQLite file, from whatever database, and restored into
whatever database: so a gallery can be moved. Crops are read after that: items that a server has deleted in
between are taken out of the copy too. The last member has the SHA-256 of every other: a file without it, or
with anything that differs from it, is torn.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from sqlalchemy import Connection, Engine, Select, delete, func, insert, select, text, update
from sqlalchemy.orm import Session

from model.files import sync_dir, write_atomically
from service.database import known_schemas, make_engine, make_sessions, migrate, rewrite, schema_of
from service.erasure import Receipt, reapply
from service.errors import BadBackup, CropMissing, NotEmpty
from service.gallery import drop_identities
from service.jobs import RUNNING
from service.serving import Serving
from service.settings import Settings
from service.storage import CropStore
from service.tables import (
    DoomedCrop,
    Gallery,
    Identity,
    Item,
    Job,
    JobFile,
    KeptAnswer,
    Model,
    Table,
    new_id,
    now,
)

FORMAT = 1
TABLES, ABOUT, SUMS = "gallery.sqlite3", "backup.json", "SHA256SUMS"
KNOWN = re.compile(
    rf"crops/[0-9a-f]{{64}}|models/[A-Za-z0-9._-]+|{re.escape(TABLES)}|{re.escape(ABOUT)}|{SUMS}"
)
LEFT_OUT = (KeptAnswer.__table__, DoomedCrop.__table__)
ROWS_PER_PAGE = 1_000
CHUNK = 1024 * 1024
CROPS_AT_ONCE = 64


@dataclass(frozen=True)
class Contents:
    """How much a backup holds, or how much of it was restored."""

    num_items: int
    num_crops: int
    num_models: int
    num_erased: int = 0


@dataclass
class _Writer:
    """Writes members of a tar and remembers their SHA-256."""

    archive: tarfile.TarFile
    sums: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, data: bytes) -> None:
        self.sums[name] = hashlib.sha256(data).hexdigest()
        self._add(name, len(data), BytesIO(data))

    def add_file(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            self.sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            self._add(name, path.stat().st_size, file)

    def _add(self, name: str, size: int, file: IO[bytes]) -> None:
        info = tarfile.TarInfo(name)
        info.size = size
        self.archive.addfile(info, file)


def backup(serving: Serving, path: Path, *, replace: bool = False) -> Contents:
    """Write a gallery to one file, which appears whole or not at all.

    Raises:
        BadBackup: the file is there already, and is not to be replaced.
        CropMissing: a crop or the file of a network is gone from the disk; `reid check` tells them all.
    """
    if path.exists() and not replace:
        raise BadBackup(f"{path} is there already; choose another name, or replace it with --force")
    unfinished = path.with_name(f".{path.name}.{new_id()}.tmp")
    try:
        with TemporaryDirectory() as folder, unfinished.open("xb") as file:
            copy = Path(folder) / TABLES
            _copy_out(serving.sessions.engine, copy)
            with tarfile.open(fileobj=file, mode="w") as archive:
                contents = _write(serving, copy, _Writer(archive))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_dir(path.absolute().parent)
    finally:
        unfinished.unlink(missing_ok=True)
    return contents


def _copy_out(source: Engine, path: Path) -> None:
    """Copy the tables, as they are at one moment, into a new SQLite file."""
    with _opened(path) as target:
        isolated = source.execution_options(isolation_level="REPEATABLE READ")
        engine = source if source.dialect.name == "sqlite" else isolated
        with engine.connect() as reader, target.begin() as writer:
            writer.execute(delete(Gallery))
            _copy_rows(reader, writer)


def _copy_rows(reader: Connection, writer: Connection) -> None:
    """Copy all rows but those that mean nothing elsewhere: work under way, kept answers, doomed crops."""
    for table in Table.metadata.sorted_tables:
        if table in LEFT_OUT:
            continue
        rows = select(table)
        if table is Job.__table__:
            rows = rows.where(Job.state.not_in(RUNNING))
        elif table is JobFile.__table__:
            ended = select(Job.id).where(Job.state.not_in(RUNNING))
            rows = rows.where(JobFile.error.is_not(None), JobFile.job_id.in_(ended))
        for page in reader.execution_options(yield_per=ROWS_PER_PAGE).execute(rows).mappings().partitions():
            writer.execute(insert(table), [dict(row) for row in page])


def _write(serving: Serving, copy: Path, writer: _Writer) -> Contents:
    with _opened(copy) as engine, Session(engine) as session:
        gone = [sha256 for sha256 in _crops(session) if not _write_crop(serving, writer, sha256)]
        _take_out(session, gone)
        session.commit()
        if gone:
            rewrite(engine, patience_s=0)  # they may have been erased
        for model in session.scalars(select(Model).order_by(Model.version)).all():
            path = serving.settings.models_dir / model.filename
            if not path.exists():
                raise CropMissing(f"the file of model version {model.version} is gone: {path}")
            writer.add_file(f"models/{model.filename}", path)
        contents = _contents(session)
        newest = session.scalars(select(Gallery.newest_change)).one()
    about = {
        "format": FORMAT,
        "created_at": now().isoformat(),
        "newest_change": newest,
        "num_items": contents.num_items,
        "num_crops": contents.num_crops,
        "num_models": contents.num_models,
    }
    writer.add_file(TABLES, copy)
    writer.add(ABOUT, json.dumps(about, indent=1).encode())
    writer.add(SUMS, _sums(writer.sums))
    return contents


def _crops(session: Session) -> Sequence[str]:
    return session.scalars(select(Item.sha256).distinct().order_by(Item.sha256)).all()


def _write_crop(serving: Serving, writer: _Writer, sha256: str) -> bool:
    """Write a crop; tell whether it was there.

    Raises:
        CropMissing: it is not, though its items are.
    """
    try:
        data = serving.crops.get(sha256)
    except CropMissing:
        with serving.sessions.read() as session:
            if session.scalar(select(Item.id).where(Item.sha256 == sha256).limit(1)) is not None:
                raise
        return False
    writer.add(f"crops/{sha256}", data)
    return True


def _take_out(session: Session, sha256s: Iterable[str]) -> None:
    """Delete the items of crops that have gone since the tables were copied."""
    for sha256 in sha256s:
        rows = session.execute(select(Item.id, Item.identity_key).where(Item.sha256 == sha256)).all()
        ids = [row.id for row in rows]
        session.execute(update(Item).where(Item.duplicate_of.in_(ids)).values(duplicate_of=None))
        session.execute(delete(Item).where(Item.sha256 == sha256))
        drop_identities(session, {row.identity_key for row in rows})


def _contents(session: Session, num_erased: int = 0) -> Contents:
    def count(statement: Select[int]) -> int:
        return session.scalar(statement) or 0

    return Contents(
        count(select(func.count()).select_from(Item)),
        count(select(func.count(Item.sha256.distinct()))),
        count(select(func.count()).select_from(Model)),
        num_erased,
    )


def restore(settings: Settings, path: Path, receipts: Iterable[Receipt] = ()) -> Contents:
    """Put what a backup holds into an empty data folder and database, but for what receipts say is erased.

    Rows come last and all at once: a restore that is cut short can be done again.

    Raises:
        BadBackup: the file is torn, or of a newer version of this program; nothing is written.
        NotEmpty: there is a gallery already; nothing is written.
    """
    _verify(path)
    engine = make_engine(settings.database_url)
    try:
        migrate(engine)
        with Session(engine) as session:
            _require_empty(session)
        with TemporaryDirectory() as folder:
            copy = Path(folder) / TABLES
            _extract_tables(path, copy)
            with _opened(copy) as source:
                num_erased = _erase(settings, Path(folder), source, receipts)
                with Session(source) as session:
                    wanted = set(_crops(session))
                    contents = _contents(session, num_erased)
                _write_files(settings, path, wanted)
                _copy_in(source, engine)
    finally:
        engine.dispose()
    return contents


def _verify(path: Path) -> None:
    """Read all of a backup and compare it with what it says of itself.

    Raises:
        BadBackup: if it differs in anything.
    """
    found: dict[str, str] = {}
    sums: bytes | None = None
    try:
        for name, file in _members(path):
            if sums is not None:
                raise BadBackup(f"{path} goes on behind its end")
            if name in found or not KNOWN.fullmatch(name):
                raise BadBackup(f"{path}: {name[:100]!r} does not belong in a backup, or is there twice")
            if name == SUMS:
                sums = file.read()
            else:
                found[name] = _digest(file)
    except (tarfile.TarError, EOFError) as error:
        raise BadBackup(f"{path} is torn: {error}") from error
    if sums is None:
        raise BadBackup(f"{path} is torn: its end is missing")
    if sums != _sums(found):
        told, read = sums.splitlines(), _sums(found).splitlines()
        wrong = next((line for line in read if line not in told), told[-1] if told else b"")
        raise BadBackup(f"{path} is damaged: see {wrong[66:166].decode('utf-8', 'replace')}")
    for name, digest in found.items():
        if name.startswith("crops/") and name != f"crops/{digest}":
            raise BadBackup(f"{path} is damaged: {name} is another crop")
    if not {TABLES, ABOUT} <= found.keys():
        raise BadBackup(f"{path} has no tables")


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _sums(digests: dict[str, str]) -> bytes:
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Return the members of a backup, one after the other.

    Raises:
        BadBackup: it is no tar, is torn, or holds other things than files.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                content = archive.extractfile(info) if info.isreg() and info.sparse is None else None
                if content is None:
                    raise BadBackup(f"{path}: {info.name[:100]!r} is no plain file")
                yield info.name, content
            if file.read().strip(b"\0"):
                raise BadBackup(f"{path} is torn: there is something behind its end")
    except FileNotFoundError:
        raise BadBackup(f"{path} is not there") from None
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise BadBackup(f"{path} is torn, or no backup: {error}") from error


def _extract_tables(path: Path, copy: Path) -> None:
    """Put the tables of a backup into a file, at the schema of this program.

    Raises:
        BadBackup: they are of a newer one.
    """
    for name, file in _members(path):
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
    """Erase from the copied tables what receipts say, and return how many items."""
    own = settings.model_copy(update={"data_dir": folder / "data"})
    applied = reapply(Serving(own, make_sessions(source)), receipts)
    return sum(int(erasure.erased["items"]) for erasure in applied)


def _require_empty(session: Session) -> None:
    for table in (Item, Identity, Model):
        if session.scalar(select(func.count()).select_from(table)):
            name = table.__tablename__
            raise NotEmpty(f"the database has {name} already; restore into an empty one, or choose another")


def _write_files(settings: Settings, path: Path, wanted: set[str]) -> None:
    crops = CropStore(settings.crops_dir)
    page: list[bytes] = []
    for name, file in _members(path):
        folder, _, base = name.partition("/")
        if folder == "models":
            write_atomically(settings.models_dir / base, file.read())
        elif folder == "crops" and base in wanted:
            page.append(file.read())
        if len(page) == CROPS_AT_ONCE:
            crops.put_all(partial(bytes, data) for data in page)
            page.clear()
    crops.put_all(partial(bytes, data) for data in page)


def _copy_in(source: Engine, target: Engine) -> None:
    """Copy all rows in one transaction; the gallery gets a new id, so that no old snapshot fits it."""
    immediate = target.execution_options(sqlite_begin="IMMEDIATE")
    with source.connect() as reader, immediate.begin() as writer:
        writer.execute(select(Gallery).with_for_update())
        _require_empty(Session(writer))
        writer.execute(delete(Gallery))
        _copy_rows(reader, writer)
        writer.execute(update(Gallery).values(id=new_id()))
        if target.dialect.name == "postgresql":
            newest = "SELECT coalesce(max(key), 0) + 1 FROM identities"
            sequence = "pg_get_serial_sequence('identities', 'key')"
            writer.execute(text(f"SELECT setval({sequence}, ({newest}), false)"))


@contextmanager
def _opened(path: Path) -> Iterator[Engine]:
    """Open an SQLite file with every table."""
    engine = make_engine(f"sqlite:///{path}")
    try:
        migrate(engine)
        yield engine
    finally:
        engine.dispose()


def read_receipts(content: str, name: str) -> list[Receipt]:
    """Read receipts: one, a list of them, or what GET /erasures answers.

    Raises:
        BadBackup: they are none.
    """
    try:
        told = json.loads(content)
        if isinstance(told, dict):
            told = told.get("erasures", [told])
        return [
            Receipt(int(one["sequence"]), one["identity_sha256"], [str(item) for item in one["item_ids"]])
            for one in told
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise BadBackup(f"{name} holds no receipts of erasures: {error!r}") from error
