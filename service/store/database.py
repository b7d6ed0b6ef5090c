"""The one place that makes an engine, and the two kinds of session: one that reads and one that writes.

On SQLite a transaction that reads first and writes later can be refused half-way, whatever the time-out. So
writers say BEGIN IMMEDIATE and wait for their turn at the start; readers never wait.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import structlog
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session, sessionmaker

from service.errors import BadSettings
from service.store.tables import Table

logger = structlog.get_logger(__name__)

T = TypeVar("T")

SQLITE_PRAGMAS = ("journal_mode=WAL", "foreign_keys=ON", "busy_timeout=30000", "synchronous=FULL")

MIGRATION_LOCK = 0x52454944
"""The key of PostgreSQL's advisory lock that a migration holds."""


CHECKPOINT_S = 0.1
"""How long to wait for readers of SQLite at a time, and how long to let writers go first in between."""


VALUES_PER_STATEMENT = 5_000
"""SQLite takes 32,766 variables in a statement."""


def pages(values: Iterable[T]) -> Iterator[list[T]]:
    """Return values as many at a time as a statement may name.

    >>> [len(page) for page in pages(range(12_000))]
    [5000, 5000, 2000]
    """
    left = iter(values)
    while page := list(islice(left, VALUES_PER_STATEMENT)):
        yield page


@dataclass(frozen=True)
class Sessions:
    """Makes sessions: `with sessions.read() as ...`, `with sessions.write.begin() as ...`."""

    read: sessionmaker[Session]
    write: sessionmaker[Session]
    engine: Engine


def make_engine(url: str | URL) -> Engine:
    """Make an engine; an SQLite file gets its folder when it is first opened, and loses nothing committed."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True, pool_size=10, max_overflow=30)
    engine = create_engine(parsed)
    event.listen(engine, "do_connect", _make_folder)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def require_file(url: str) -> None:
    """Make sure that a database on SQLite is there, where none is to be made.

    Raises:
        BadSettings: it is not.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise BadSettings(f"there is no gallery: {parsed.database} is not there; is the data folder right?")


def make_sessions(engine: Engine) -> Sessions:
    """Make sessions whose objects can still be read after the session has ended."""
    writer = engine.execution_options(sqlite_begin="IMMEDIATE")
    return Sessions(
        read=sessionmaker(engine, expire_on_commit=False),
        write=sessionmaker(writer, expire_on_commit=False),
        engine=engine,
    )


def rewrite(engine: Engine, patience_s: float) -> bool:
    """Leave nothing of deleted rows in the database file and its log; tell whether that was possible.

    On SQLite to delete is not enough, with `secure_delete` neither: where rows have moved from page to page
    there are copies of them. So the file is written anew, which takes as much room again, and the log, which
    holds what was there before, is emptied; readers may delay that. PostgreSQL reuses the room of the rows.
    """
    if engine.dialect.name != "sqlite":
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql(f"VACUUM {', '.join(Table.metadata.tables)}")
        return True
    raw = engine.raw_connection()  # SQLAlchemy would begin a transaction
    raw.detach()
    try:
        cursor = raw.cursor()
        cursor.execute("VACUUM")
        cursor.execute(f"PRAGMA busy_timeout={round(1000 * CHECKPOINT_S)}")  # writers wait for as long
        deadline_s = time.monotonic() + patience_s
        while True:
            (is_busy, _, _) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not is_busy or time.monotonic() > deadline_s:
                return not is_busy
            time.sleep(CHECKPOINT_S)
    except sqlite3.DatabaseError as error:
        logger.warning("the database file cannot be rewritten", reason=str(error))
        return False
    finally:
        raw.close()


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest revision, in one transaction; one process at a time."""
    config = _config()
    with engine.execution_options(sqlite_begin="IMMEDIATE").begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def schema_of(connection: Connection) -> str | None:
    """Return the revision of the schema that a database has, or None if it has none."""
    return MigrationContext.configure(connection).get_current_revision()


def known_schemas() -> list[str]:
    """Return the revisions of the schema that this program knows, newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_migrations_dir()).replace("%", "%%"))
    return config


def _migrations_dir() -> Path:
    """Return where the revisions are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def _make_folder(_dialect: object, _record: object, arguments: list[Any], _options: object) -> None:
    Path(arguments[0]).parent.mkdir(parents=True, exist_ok=True)


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # sqlite3 must not begin transactions of its own; see _begin_sqlite
    cursor = connection.cursor()
    for pragma in SQLITE_PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")
