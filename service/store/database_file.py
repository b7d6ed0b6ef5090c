"""The file of an SQLite database, watched while it is open.

A process that has a file open goes on writing into it after somebody has deleted or renamed the file. What is
written then is lost with the process. So the files at the path of the database are compared with the files
that were opened: before each change, before its commit, and before each new connection. SQLite keeps the
files `-wal` and `-shm` beside the database as long as a connection is open, so they are compared too.

The files are never opened here, because closing one would end the locks that SQLite holds on it.
"""

import os
from pathlib import Path
from threading import Lock
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, event

from service.errors import DatabaseReplaced

logger = structlog.get_logger(__name__)

FILE = "database_file"
"""The execution option under which an engine has its `DatabaseFile`."""

FileId = tuple[int, int] | None
"""Device and inode of a file, or None if there is no such file."""


class DatabaseFile:
    """The files of an SQLite database as the connections of this process have opened them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._num_open = 0
        self._opened: tuple[str, FileId, FileId, FileId] | None = None
        self._is_logged = False

    def check(self) -> None:
        """Compare the files at the path with those that are open.

        Raises:
            DatabaseReplaced: a file is gone or is another one.
        """
        with self._lock:
            if self._num_open:
                self._compare(self._found(), 4)

    def before_connect(self) -> None:
        """Make the folder of a new database; refuse to open a file that took the place of the opened one.

        Raises:
            DatabaseReplaced: the file is gone or is another one.
        """
        with self._lock:
            if self._opened is not None:
                self._compare(self._found(), 4 if self._num_open else 2)
                return
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def after_connect(self) -> None:
        """Note the files of a new connection.

        Raises:
            DatabaseReplaced: the files are not those of the other connections.
        """
        with self._lock:
            found = self._found()
            if self._opened is not None:
                self._compare(found, 4 if self._num_open else 2)
            self._opened = found
            self._num_open += 1

    def after_close(self) -> None:
        """Note the end of a connection; the last one takes `-wal` and `-shm` with it."""
        with self._lock:
            self._num_open -= 1

    def _found(self) -> tuple[str, FileId, FileId, FileId]:
        real = os.path.realpath(self.path)
        return (real, _id_of(real), _id_of(f"{real}-wal"), _id_of(f"{real}-shm"))

    def _compare(self, found: tuple[str, FileId, FileId, FileId], num: int) -> None:
        """Compare the first `num` of path, database, `-wal` and `-shm`."""
        if self._opened is None or found[:num] == self._opened[:num]:
            return
        names = ("", "", "-wal", "-shm")
        suffix = next(name for name, a, b in zip(names, found, self._opened, strict=True) if a != b)
        reason = (
            f"{self.path.name}{suffix} was deleted or replaced while the service had it open, so nothing is "
            "written; put the right file in its place, and restart the service"
        )
        if not self._is_logged:
            self._is_logged = True
            logger.error("the database file was replaced", path=f"{self.path}{suffix}")
        raise DatabaseReplaced(reason)


def watch_file(engine: Engine, path: Path) -> None:
    """Refuse transactions that change the database once its file was deleted or replaced."""
    file = DatabaseFile(path)
    engine.update_execution_options(**{FILE: file})

    def before_connect(*_: object) -> None:
        file.before_connect()

    def after_connect(connection: Any, _record: object) -> None:
        try:
            file.after_connect()
        except DatabaseReplaced:
            connection.close()
            raise

    def after_close(*_: object) -> None:
        file.after_close()

    def check(connection: Connection) -> None:
        if connection.get_execution_options().get("sqlite_begin") == "IMMEDIATE":
            file.check()

    event.listen(engine, "do_connect", before_connect)
    event.listen(engine, "connect", after_connect)
    event.listen(engine, "close", after_close)
    event.listen(engine, "close_detached", after_close)
    event.listen(engine, "begin", check)
    event.listen(engine, "commit", check)


def file_of(engine: Engine) -> DatabaseFile | None:
    """Return the watched file of an engine, or None if the database is no SQLite file."""
    file: DatabaseFile | None = engine.get_execution_options().get(FILE)
    return file


def _id_of(path: str) -> FileId:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)
