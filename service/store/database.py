"""The engine of the database, its two kinds of session, and its schema.

One kind of session reads and the other writes. SQLite can refuse a transaction that reads first and writes
later, whatever the time-out. So a writing session begins with BEGIN IMMEDIATE and waits for other writers at
the start. Reading sessions never wait.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
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

from service.errors import BadSettings, NewerDatabase
from service.store.all_tables import METADATA
from service.store.database_file import watch_file
from service.store.timeouts import SET, answer_within, bound_waiting

logger = structlog.get_logger(__name__)

T = TypeVar("T")

SQLITE_PRAGMAS = (
    "journal_mode=WAL",
    "foreign_keys=ON",
    "busy_timeout=30000",
    "synchronous=FULL",
    "schema_version",  # a read, which opens the files -wal and -shm
)

POOL_WAIT_S = 10
"""How long a request waits until another one gives its connection back, in seconds."""

MIGRATION_LOCK = 0x52454944
"""The key of PostgreSQL's advisory lock that a migration holds."""

CHECKPOINT_S = 0.1
"""How long an attempt to empty SQLite's log waits for readers, and the pause after it, in seconds."""

VALUES_PER_STATEMENT = 5_000
"""Values that one statement may name; SQLite takes at most 32,766 variables in a statement."""


def pages(values: Iterable[T]) -> Iterator[list[T]]:
    """Return the values in pages of at most `VALUES_PER_STATEMENT`.

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
    """Make an engine; the first connection to an SQLite file makes the folder of the file."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = create_engine(
            parsed,
            pool_pre_ping=True,
            pool_size=10,
            max_overflow=30,
            pool_timeout=POOL_WAIT_S,
            json_deserializer=read_json,
        )
        event.listen(engine, "connect", _set_up_postgresql)
        bound_waiting(engine)
        return engine
    engine = create_engine(parsed, json_deserializer=read_json)
    event.listen(engine, "connect", _set_up_sqlite)
    path = sqlite_file(parsed)
    if path is not None:
        watch_file(engine, path)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def read_json(text: str) -> Any:
    """Read a column of JSON, perhaps one that an older version of this program has written.

    A value that is nested too deep to be read is an empty object. A number that is not finite is null,
    because no answer can hold such a number.
    """
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except RecursionError:
        return {}


def sqlite_url(path: Path) -> URL:
    """Return the URL of an SQLite file, whatever characters its path has."""
    return URL.create("sqlite", database=str(path))


def sqlite_file(url: str | URL) -> Path | None:
    """Return the file of an SQLite database, or None for any other database."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database is None:
        return None
    return Path(parsed.database).absolute()


def require_file(url: str) -> None:
    """Check that the file of an SQLite database exists, for commands that must not make a database.

    Raises:
        BadSettings: the file does not exist.
    """
    path = sqlite_file(url)
    if path is not None and not path.is_file():
        raise BadSettings(f"there is no gallery: {path} does not exist; is the data folder right?")


def make_sessions(engine: Engine) -> Sessions:
    """Make the two kinds of session; their objects can be read after the session has ended."""
    writer = engine.execution_options(sqlite_begin="IMMEDIATE")  # see also service/store/database_file.py
    return Sessions(
        read=sessionmaker(engine, expire_on_commit=False),
        write=sessionmaker(writer, expire_on_commit=False),
        engine=engine,
    )


def rewrite(engine: Engine, patience_s: float) -> bool:
    """Remove every trace of deleted rows from the database file and its log.

    SQLite keeps copies of deleted rows where rows have moved from page to page, even with `secure_delete`. So
    the file is rewritten and the write-ahead log is emptied. The rewrite needs as much free room as the file
    has, and the log cannot be emptied while somebody reads. PostgreSQL reuses the room of the deleted rows.

    Args:
        engine: the database.
        patience_s: how long to wait for readers of SQLite, in seconds.

    Returns:
        Whether the file was rewritten and the log emptied.
    """
    if engine.dialect.name != "sqlite":
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        with answer_within(None), autocommit.connect() as connection:
            connection.exec_driver_sql("SET statement_timeout = 0; SET lock_timeout = 0")
            connection.exec_driver_sql(f"VACUUM {', '.join(METADATA.tables)}")
            connection.exec_driver_sql(SET)
        return True
    raw = engine.raw_connection()  # SQLAlchemy would begin a transaction
    raw.detach()
    try:
        cursor = raw.cursor()
        cursor.execute("VACUUM")
        cursor.execute(f"PRAGMA busy_timeout={round(1000 * CHECKPOINT_S)}")  # other writers wait too
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
    """Upgrade the schema to the newest revision, in one transaction; only one process at a time does so.

    Raises:
        NewerDatabase: the schema is that of a newer version of this program; nothing is changed.
    """
    with engine.execution_options(sqlite_begin="IMMEDIATE").begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        schema = schema_of(connection)
        if schema == known_schemas()[0]:
            return
        if schema is not None and schema not in known_schemas():
            raise NewerDatabase(
                f"the database has schema {schema}, which this version of the program does not know: start "
                "the newer version that wrote it, or restore a backup of this version"
            )
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def schema_of(connection: Connection) -> str | None:
    """Return the revision of the schema of a database, or None if the database has no schema."""
    return MigrationContext.configure(connection).get_current_revision()


@cache
def known_schemas() -> tuple[str, ...]:
    """Return the schema revisions that this program knows, newest first; their files are read once."""
    return tuple(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_migrations_dir()).replace("%", "%%"))
    return config


def _migrations_dir() -> Path:
    """Return the folder of the revisions: in the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # sqlite3 must not begin transactions of its own; see _begin_sqlite
    cursor = connection.cursor()
    for pragma in SQLITE_PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}").fetchall()
    cursor.close()
    connection.create_function("lower", 1, _lower, deterministic=True)  # its own knows A to Z alone


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()


def _set_up_postgresql(connection: Any, _record: object) -> None:
    """Let the server answer in UTC; in another zone a time of the years 1 or 9999 may be out of range."""
    connection.execute("SET TIME ZONE 'UTC'")
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")
