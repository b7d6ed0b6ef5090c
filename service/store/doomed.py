"""Doomed crops: crops whose bytes must be deleted from the disk, unless something needs them.

The transaction that deletes an item writes a row for its crop. The bytes are deleted after the commit. A
crash in between leaves the row, so the next start deletes the bytes.
"""

from collections.abc import Collection, Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.store.audit_tables import AuditQuery
from service.store.database import pages
from service.store.tables import DoomedCrop, Item, JobFile, is_pending


def mark_doomed(session: Session, sha256s: Iterable[str]) -> None:
    """Mark crops whose bytes must be deleted after the commit, unless something needs them."""
    for sha256 in sha256s:
        session.merge(DoomedCrop(sha256=sha256))


def needed_crops(session: Session, sha256s: Collection[str]) -> set[str]:
    """Return the crops among these that an item or the audit keeps, or that a job is to enrol."""
    needed: set[str] = set()
    for page in pages(sha256s):
        needed |= set(session.scalars(select(Item.sha256).where(Item.sha256.in_(page), Item.has_crop)))
        pending = select(JobFile.sha256).where(JobFile.sha256.in_(page), is_pending())
        needed |= {sha256 for sha256 in session.scalars(pending) if sha256}
        needed |= set(session.scalars(select(AuditQuery.sha256).where(AuditQuery.sha256.in_(page))))
    return needed
