"""Failures of the disk and of the database, as errors of the service that say what an operator can do."""

import errno
import sqlite3

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.errors import (
    DatabaseDamaged,
    DatabaseUnavailable,
    ServiceError,
    StorageFull,
    StorageUnavailable,
)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_DETAIL = "there is no room left for the data folder; make some, and send the request again"
DAMAGED_NAMES = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
DAMAGED_DETAIL = (
    "the database file is damaged; stop the server, see what `reid check` says, and restore a backup with "
    "`reid restore`"
)


def to_service_error(error: OSError | SQLAlchemyError) -> ServiceError | None:
    """Return the error of the service for a failure, or None if the failure is a defect of this program."""
    if isinstance(error, OSError):
        return _from_os(error)
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable("all connections to the database are busy; send the request again soon")
    if not isinstance(error, DBAPIError):
        return None
    if isinstance(error.orig, sqlite3.DatabaseError):
        return _from_sqlite(error.orig)
    if error.connection_invalidated or type(error.orig).__name__ == "OperationalError":
        return DatabaseUnavailable("the database does not answer; send the request again soon")
    return None


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
    if isinstance(service_error, DatabaseUnavailable) and isinstance(error, DBAPIError):
        reason = str(error.orig).strip().partition("\n")[0]
        return f"the database cannot be used: {reason}; start it, or correct REID_DATABASE_URL"
    return None if service_error is None else str(service_error)


def _from_os(error: OSError) -> ServiceError | None:
    if error.errno in FULL:
        return StorageFull(FULL_DETAIL)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE):
        return StorageUnavailable(f"the data folder cannot be used: {error.strerror}")
    return None


def _from_sqlite(error: sqlite3.DatabaseError) -> ServiceError | None:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(DAMAGED_NAMES):
        return DatabaseDamaged(DAMAGED_DETAIL)
    if name.startswith("SQLITE_FULL"):
        return StorageFull(FULL_DETAIL)
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")):
        return StorageUnavailable(f"the database file cannot be used: {error}")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return DatabaseUnavailable("the database is busy; send the request again soon")
    return None
