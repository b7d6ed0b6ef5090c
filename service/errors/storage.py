"""Errors of the data folder, the database and backups."""

from service.errors.service_error import ServiceError


class StorageFull(ServiceError):
    """The disk is full; nothing was changed."""

    code = "storage_full"
    status = 507
    title = "Storage full"


class StorageUnavailable(ServiceError):
    """The data folder cannot be read or written; nothing was changed."""

    code = "storage_unavailable"
    status = 503
    title = "Storage unavailable"


class DatabaseUnavailable(ServiceError):
    """The database does not answer. The next request tries again."""

    code = "database_unavailable"
    status = 503
    title = "Database unavailable"


class DatabaseDamaged(ServiceError):
    """SQLite reports that the database file is damaged."""

    code = "database_damaged"
    status = 503
    title = "Database damaged"


class AuditBroken(ServiceError):
    """The audit was changed outside the service, so no row is added or expires; the message says where."""

    code = "audit_broken"
    status = 503
    title = "Audit broken"


class BadBackup(ServiceError):
    """The file is not a complete backup of a gallery; the message says why."""

    code = "bad_backup"
    status = 500
    title = "Bad backup"


class NotEmpty(ServiceError):
    """A restore would overwrite a gallery; the message names the table, crop or file in the way."""

    code = "not_empty"
    status = 500
    title = "Not empty"


class OtherGallery(ServiceError):
    """The data folder belongs to another gallery than the database."""

    code = "other_gallery"
    status = 503
    title = "Folder of another gallery"


class DatabaseReplaced(ServiceError):
    """The SQLite file was deleted or replaced under the running service, so nothing is written."""

    code = "database_replaced"
    status = 503
    title = "Database replaced"


class NewerDatabase(ServiceError):
    """The database was migrated by a newer version of this program."""

    code = "newer_database"
    status = 503
    title = "Newer database"


class TooManyOpenFiles(ServiceError):
    """The process or the machine has no file descriptor left."""

    code = "too_many_open_files"
    status = 503
    title = "Too many open files"
