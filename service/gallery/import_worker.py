"""Enrol the crops of an import, a page at a time.

A worker reads a few pending rows at a time and enrols their crops as a request would. The transaction that
adds the items also deletes the pending rows. So a crash at any moment neither loses nor doubles a crop, and
the next worker, in this process or another, goes on.
"""

import io
from collections.abc import Sequence
from functools import partial
from typing import BinaryIO

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from service.errors import CropMissing, CropRefused, ImageError
from service.gallery.ages import warn
from service.gallery.duplicates import OnDuplicate
from service.gallery.enrolment import Enrolment, enroll
from service.gallery.metadata import ItemMetadata
from service.jobs.jobs import MAX_LISTED, Cancelled, Stopped, advance
from service.serving.serving import Serving
from service.store.doomed import mark_doomed
from service.store.store import Store
from service.store.tables import Job, JobFile, is_pending

FILES_PER_PAGE = 16
"""Crops that a worker enrols together."""


def run_import(serving: Serving, job: Job) -> None:
    """Enrol the pending crops of a job.

    Raises:
        Cancelled: the job was cancelled, or has ended otherwise.
        Stopped: the process is shutting down.
    """
    while _enroll_page(serving, job.id):
        if serving.store.stopping.is_set():
            raise Stopped


def _enroll_page(serving: Serving, job_id: str) -> bool:
    """Enrol the next page of pending crops, and tell whether there was any pending crop."""
    pending = select(JobFile).where(JobFile.job_id == job_id, is_pending())
    with serving.store.read() as session:
        job = session.get_one(Job, job_id)
        files = list(session.scalars(pending.order_by(JobFile.position).limit(FILES_PER_PAGE)))
    options = job.options or {}
    on_duplicate: OnDuplicate = options.get("on_duplicate", "store")
    are_imported: bool = options.get("is_archive", False)
    was_any = bool(files)
    uploads: list[BinaryIO] = []
    for file in list(files):
        try:
            uploads.append(io.BytesIO(serving.store.crops.get(file.sha256 or "")))
        except CropMissing as error:
            _mark_failed(serving.store, file, str(error))
            files.remove(file)
    while files:
        try:
            metadata = [ItemMetadata.model_validate(file.label) for file in files]
            mark_done = partial(_mark_done, serving.store, job_id, list(files))
            enroll(serving, uploads, metadata, on_duplicate, mark_done, are_imported=are_imported)
            break
        except CropRefused as error:
            detail = error.detail if isinstance(error, ImageError) else str(error)
            _mark_failed(serving.store, files.pop(error.position), detail)
            uploads.pop(error.position)
    return was_any


def _mark_done(
    store: Store, job_id: str, files: Sequence[JobFile], session: Session, enrolment: Enrolment
) -> None:
    """Delete the rows of crops, or keep them with their items, in the transaction that enrols the crops.

    The row of a crop is kept if the crop is doubtful, or if it was there already and is among the first
    `MAX_LISTED` such crops.

    Raises:
        Cancelled: the job has ended, or another process has enrolled one of these crops.
    """
    job = _count_done(session, job_id, len(files))
    # A doomed crop is not deleted while an item keeps it.
    mark_doomed(session, {file.sha256 for file in files if file.sha256})
    names = [file.name for file in files]
    kept: dict[int, dict[str, object]] = {}
    for place, is_new in enumerate(enrolment.are_new):
        if not is_new:
            job.num_existing += 1
            if job.num_existing <= MAX_LISTED:
                kept[place] = {}
    for warned in warn(enrolment.items, names, store.settings, store.clock.now()):
        kept[warned.position] = {"warning": {"code": warned.code, "detail": warned.detail}}
    pending = JobFile.job_id == job_id, is_pending()
    num = 0
    for place, values in kept.items():
        row = update(JobFile).where(*pending, JobFile.position == files[place].position)
        marked = session.execute(row.values(item_id=enrolment.items[place].id, **values))
        num += marked.rowcount  # type: ignore[attr-defined]
    positions = [file.position for place, file in enumerate(files) if place not in kept]
    gone = delete(JobFile).where(*pending, JobFile.position.in_(positions))
    num += session.execute(gone).rowcount  # type: ignore[attr-defined]
    if num != len(files):
        raise Cancelled("another process does this job")


def _mark_failed(store: Store, file: JobFile, detail: str) -> None:
    with store.change() as change:
        _count_done(change.session, file.job_id, 1)
        statement = update(JobFile).where(JobFile.job_id == file.job_id, JobFile.position == file.position)
        change.session.execute(statement.values(error=detail))
        if file.sha256:
            mark_doomed(change.session, [file.sha256])


def _count_done(session: Session, job_id: str, num: int) -> Job:
    """Count `num` more files of a job as done, and return the job.

    Raises:
        Cancelled: the job was cancelled, or has ended otherwise.
    """
    row = session.get_one(Job, job_id)
    advance(session, job_id, row.done + num, row.total)
    session.refresh(row)
    return row
