"""The crops of queries, which stay with the rows of the audit if REID_AUDIT_KEEP_QUERIES says so."""

from collections.abc import Iterable
from typing import BinaryIO

from sqlalchemy import select

from service.audit.entries import current
from service.errors import QueryNotKept
from service.store.audit_tables import AuditQuery
from service.store.store import Store


def keep_queries(store: Store, uploads: Iterable[BinaryIO]) -> None:
    """Keep the crops of this request on the disk, if the gallery keeps queries.

    Raises:
        StorageFull: there is no room for them.
    """
    entry = current()
    if entry is None or not store.settings.audit_keep_queries:
        return
    store.room.require()
    for upload in uploads:
        upload.seek(0)
        entry.kept_queries.append(store.crops.put(upload.read()))


def find_query(store: Store, sha256: str) -> bytes:
    """Return the bytes of a query crop that the audit keeps.

    Raises:
        CropMissing: the file is gone, or has changed on the disk.
        QueryNotKept: the audit keeps no crop of this hash.
    """
    with store.read() as session:
        if session.scalar(select(AuditQuery.sha256).where(AuditQuery.sha256 == sha256).limit(1)) is None:
            raise QueryNotKept(sha256)
    return store.crops.get(sha256)
