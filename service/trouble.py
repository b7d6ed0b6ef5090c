"""Which of our errors a failure of the disk or of the database is: what an operator can do about it."""

import errno
import sqlite3

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.errors import DatabaseUnavailable, ServiceError, StorageFull, StorageUnavailable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_DETAIL = "there is no room left for the data folder; make some, and send the request again"


def explain(error: OSError | SQLAlchemyError) -> ServiceError | None:
    """Return what a failure means for the caller, or None if it is a fault of ours."""
    if isinstance(error, OSError):
        return _explain_os(error)
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable("all connections to the database are busy; send the request again soon")
    if not isinstance(error, DBAPIError):
        return None
    if isinstance(error.orig, sqlite3.OperationalError):
        return _explain_sqlite(error.orig)
    if error.connection_invalidated or type(error.orig).__name__ == "OperationalError":
        return DatabaseUnavailable("the database does not answer; send the request again soon")
    return None


def _explain_os(error: OSError) -> ServiceError | None:
    if error.errno in FULL:
        return StorageFull(FULL_DETAIL)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE):
        return StorageUnavailable(f"the data folder cannot be used: {error.strerror}")
    return None


def _explain_sqlite(error: sqlite3.OperationalError) -> ServiceError | None:
    name = error.sqlite_errorname
    if name.startswith("SQLITE_FULL"):
        return StorageFull(FULL_DETAIL)
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")):
        return StorageUnavailable(f"the database file cannot be used: {error}")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return DatabaseUnavailable("the database is busy; send the request again soon")
    return None
