"""Failures of the disk and of the database, as errors of the service that say what an operator can do."""

import errno
import sqlite3

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.errors import (
    DatabaseDamaged,
    DatabaseUnavailable,
    ServiceError,
    StorageFull,
    StorageUnavailable,
    TooManyOpenFiles,
)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_DETAIL = "there is no room left for the data folder; make some, and send the request again"
NO_PRIVILEGE = "42501"
OPEN_FILES = (errno.EMFILE, errno.ENFILE)
OPEN_FILES_DETAIL = (
    "the service may not open more files; send fewer requests at once, or raise the limit (`ulimit -n`)"
)
NO_ROOM_FOR_SHM = "SQLITE_IOERR_SHMSIZE"
"""The error of the first connection to a database on a full disk, which makes the file `-shm`. SQLite calls
it a disk I/O error."""

DAMAGED_NAMES = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
DAMAGED_DETAIL = (
    "the database file is damaged; stop the server, see what `reid check` says, and restore a backup with "
    "`reid restore`"
)


UNUSABLE = (
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
)
"""Numbers of errors by which a file or folder is not what it should be, or cannot be reached."""


def to_service_error(error: OSError | SQLAlchemyError) -> ServiceError | None:
    """Return the error of the service for a failure, or None if the failure is a defect of this program."""
    if isinstance(error, OSError):
        return _from_os(error)
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable("all connections to the database are busy; send the request again soon")
    if not isinstance(error, DBAPIError):
        return None
    if isinstance(error.orig, sqlite3.DatabaseError):
        return from_sqlite(error.orig)
    return _from_postgres(error)


def from_temporary_file(error: OSError) -> ServiceError:
    """Return the error of the service for a failure to keep the body of a request in a temporary file."""
    if error.errno in FULL:
        return StorageFull("there is no room left for temporary files (TMPDIR); make some, and send it again")
    if error.errno in OPEN_FILES:
        return TooManyOpenFiles(OPEN_FILES_DETAIL)
    return StorageUnavailable(
        f"the folder of temporary files (TMPDIR) cannot be used: {error.strerror or error}"
    )


def operator_message(error: Exception) -> str | None:
    """Return a failure as one sentence for the operator, or None if the failure is a defect of this program.

    The sentence names the file, or says why the database cannot be used. The API does not show this sentence.
    """
    if isinstance(error, ServiceError):
        return str(error)
    if isinstance(error, OSError):
        service_error = to_service_error(error)
        reason = str(service_error) if service_error else error.strerror
        return f"{reason}: {error.filename}" if error.filename else reason
    if not isinstance(error, SQLAlchemyError):
        return None
    service_error = to_service_error(error)
    is_refused = isinstance(error, DBAPIError) and (
        error.statement is None or getattr(error.orig, "sqlstate", None) == NO_PRIVILEGE
    )  # no connection was made, or the user may not do what is needed
    is_unavailable = isinstance(service_error, DatabaseUnavailable)
    if isinstance(error, DBAPIError) and (is_unavailable or (service_error is None and is_refused)):
        reason = str(error.orig).strip().partition("\n")[0]
        return f"the database cannot be used: {reason}; start it, or correct REID_DATABASE_URL"
    return None if service_error is None else str(service_error)


def _from_os(error: OSError) -> ServiceError | None:
    if error.errno in FULL:
        return StorageFull(FULL_DETAIL)
    if error.errno in OPEN_FILES:
        return TooManyOpenFiles(
            "the service has no file descriptor left; raise `ulimit -n`, or send less at once"
        )
    if error.errno in UNUSABLE:
        return StorageUnavailable(f"the data folder cannot be used: {error.strerror}")
    return None


def _from_postgres(error: DBAPIError) -> ServiceError | None:
    """Return the error for a failure of PostgreSQL, by its SQLSTATE; a defect of ours is None."""
    state = getattr(error.orig, "sqlstate", None) or ""
    if state == "53100":
        return StorageFull(FULL_DETAIL)
    if state in ("57014", "55P03"):
        return DatabaseUnavailable("the database is busy; send the request again soon")
    if state == "25006":
        return StorageUnavailable("the database takes no changes: it is read-only")
    is_operational = isinstance(error, OperationalError | InterfaceError)
    if error.connection_invalidated or is_operational or state.startswith(("08", "53", "57", "58")):
        return DatabaseUnavailable("the database does not answer; send the request again soon")
    return None


def from_sqlite(error: sqlite3.DatabaseError) -> ServiceError | None:
    """Return the error of the service for an error of SQLite, or None for a defect of this program."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(DAMAGED_NAMES) or str(error).startswith("no such table"):
        return DatabaseDamaged(DAMAGED_DETAIL)
    if name.startswith(("SQLITE_FULL", NO_ROOM_FOR_SHM)):
        return StorageFull(FULL_DETAIL)
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")):
        return StorageUnavailable(f"the database file cannot be used: {error}")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return DatabaseUnavailable("the database is busy; send the request again soon")
    return None
