"""The question whether the database can be used, for GET /readyz."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, select
from sqlalchemy.exc import SQLAlchemyError

from service.errors import DatabaseDamaged, DatabaseUnavailable, ServiceError
from service.store.database_file import file_of
from service.store.failures import DAMAGED_DETAIL, from_sqlite, operator_message, to_service_error
from service.store.tables import Gallery
from service.store.timeouts import answer_within, bound_waiting

SILENCE_S = 1.5
"""How long the probe waits for an answer of the database, in seconds."""

CONNECT_S = 2
"""How long the probe waits for a connection, in seconds; libpq takes no less."""

MAX_CHECKED_BYTES = 8 * 1024 * 1024
"""SQLite files up to this size are read whole, which takes some hundredths of a second."""

TABLES = ("galleries", "models", "items", "embeddings", "changes", "identities")


class Probe:
    """Asks the database over a connection of its own, because those of requests may all be waiting."""

    def __init__(self, engine: Engine) -> None:
        self._file = file_of(engine)
        self._engine = engine
        if self._file is None:
            parameters = {"connect_timeout": CONNECT_S}
            self._engine = create_engine(engine.url, pool_size=1, max_overflow=0, connect_args=parameters)
            bound_waiting(self._engine)

    def ask(self) -> tuple[ServiceError, str] | None:
        """Return None if the database answers, else the error for callers and the reason for operators."""
        try:
            if self._file is not None:
                self._file.check()
                _read_some(self._file.path)
            else:
                with answer_within(SILENCE_S), self._engine.connect() as connection:
                    connection.execute(select(Gallery.newest_change))
        except ServiceError as error:
            return error, str(error)
        except sqlite3.Error as error:
            known = from_sqlite(error) if isinstance(error, sqlite3.DatabaseError) else None
            return known or DatabaseDamaged(DAMAGED_DETAIL), str(error)
        except SQLAlchemyError as error:
            known = to_service_error(error) or DatabaseUnavailable("the database cannot be used")
            return known, operator_message(error) or str(error)
        return None

    def close(self) -> None:
        """Close the connection of the probe."""
        if self._file is None:
            self._engine.dispose()


def _read_some(path: Path) -> None:
    """Read from an SQLite file over a new connection, which has nothing in memory yet.

    Raises:
        sqlite3.Error: the file cannot be read.
        DatabaseDamaged: pages are missing.
    """
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", timeout=1, uri=True)) as connection:
        (num_pages,) = connection.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        for table in TABLES:
            connection.execute(f"SELECT * FROM {table} ORDER BY rowid DESC LIMIT 1").fetchall()  # noqa: S608
        if num_pages * page_bytes <= MAX_CHECKED_BYTES:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise DatabaseDamaged(DAMAGED_DETAIL)
        _require_pages(path, num_pages, page_bytes)


def _require_pages(path: Path, num_pages: int, page_bytes: int) -> None:
    """Check that the file and its log have room for the pages; SQLite checks a page only as it is read."""
    log = path.with_name(f"{path.name}-wal")
    num_logged = log.stat().st_size // page_bytes if log.exists() else 0
    if path.stat().st_size // page_bytes + num_logged < num_pages:
        raise DatabaseDamaged(DAMAGED_DETAIL)
