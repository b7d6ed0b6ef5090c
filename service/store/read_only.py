"""Open a database for reading alone: no byte of it changes, and no file appears beside it.

SQLite needs a file of shared memory, -shm, to read a database that has a write-ahead log, -wal. A reader
makes both files if they are missing, and leaves them behind. So there are three ways to read:

* A service has the database open, or was killed: both files are there, and are used without writing to them.
* No service has the database open: there is no log, and the file cannot change. It is read as immutable.
* There is a log without its shared memory, as in a copied folder: a copy is read.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Engine, QueuePool, create_engine, event
from sqlalchemy.engine import make_url

from service.errors import DatabaseUnavailable
from service.store.database import make_engine, read_json

READ_ONLY = "-c default_transaction_read_only=on"


@contextmanager
def read_only(url: str) -> Iterator[Engine]:
    """Open a database whose file exists, for reading alone.

    Raises:
        DatabaseUnavailable: a service has opened the database in between, so what was read may be torn.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = create_engine(
            parsed, pool_pre_ping=True, json_deserializer=read_json, connect_args={"options": READ_ONLY}
        )
        with _disposed(engine):
            yield engine
        return
    path = Path(parsed.database or "").absolute()
    log, shared = path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
    if not log.exists() or (not shared.exists() and not log.stat().st_size):
        before = _stamp(path)
        with _disposed(_sqlite(f"{path.as_uri()}?immutable=1")) as engine:
            yield engine
        if _stamp(path) != before or (log.exists() and log.stat().st_size):
            raise DatabaseUnavailable("a service has changed the gallery in the meantime; begin again")
    elif shared.exists():
        with _disposed(_sqlite(f"{path.as_uri()}?mode=ro&readonly_shm=1")) as engine:
            yield engine
    else:
        with TemporaryDirectory() as folder:
            for file in (path, log):
                shutil.copyfile(file, Path(folder) / file.name)
            with _disposed(make_engine(parsed.set(database=str(Path(folder) / path.name)))) as engine:
                yield engine


def _sqlite(uri: str) -> Engine:
    connect: Callable[[], sqlite3.Connection] = partial(
        sqlite3.connect, uri, uri=True, check_same_thread=False, isolation_level=None
    )
    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, json_deserializer=read_json)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


@contextmanager
def _disposed(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
