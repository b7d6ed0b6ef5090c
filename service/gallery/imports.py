"""Enrol many crops in the background: POST /gallery with an archive, or with `Prefer: respond-async`.

The request stores the bytes of the crops in the CropStore. One transaction then adds a job and a row for each
crop. A worker reads a few pending rows at a time and enrols their crops as a request would. The transaction
that adds the items also deletes the pending rows. So a crash at any moment neither loses nor doubles a crop,
and the next worker, in this process or another, goes on. The archive itself is not kept.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import BinaryIO

from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from model.data.folders import MANIFEST
from service.errors import CropMissing, DuplicateCrop, ImageError, NotFinite, ServiceError
from service.gallery.ages import warn
from service.gallery.duplicates import OnDuplicate
from service.gallery.enrolment import Enrolment, enroll
from service.gallery.metadata import ItemMetadata
from service.gallery.pending import PendingCrop, crops_of_manifest, crops_of_names
from service.jobs.jobs import Cancelled, Stopped, add_job, advance
from service.serving.serving import Serving
from service.store.doomed import mark_doomed
from service.store.store import Store
from service.store.tables import Job, JobFile, is_pending
from service.uploads.archives import Archive
from service.uploads.layouts import Layout
from service.uploads.requests import read_upload

KIND = "import"
FILES_PER_PAGE = 16
"""Crops that a worker enrols together."""

WRITTEN_AT_ONCE = 64
"""Crops that a request holds in memory before it writes them."""

BYTES_AT_ONCE = 32 * 1024 * 1024
"""Bytes of crops after which a request writes the crops that it holds, even if they are few."""

MAX_NAME = 1_024

BeforeAnswer = Callable[[Session, Job], None]
"""Writes to the database in the transaction that queues the job."""


class CropWriter:
    """Stores the crops of a request, many at once because each write waits for the disk.

    Attributes:
        named: the name and the SHA-256 of each crop; complete after `flush`.
        sha256s: the hashes of all crops that may be on the disk, also after a failed write.
    """

    def __init__(self, store: Store) -> None:
        self.named: list[tuple[str, str]] = []
        self.sha256s: set[str] = set()
        self._crops = store.crops
        self._page: list[tuple[str, bytes]] = []

    def add(self, name: str, data: bytes) -> None:
        """Store a crop, now or with one of the next crops."""
        self._page.append((name, data))
        if len(self._page) == WRITTEN_AT_ONCE or sum(len(data) for _, data in self._page) > BYTES_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Store the crops that are not stored yet."""
        named = [(name, sha256(data).hexdigest()) for name, data in self._page]
        self.sha256s.update(hashed for _, hashed in named)
        self._crops.put_all(partial(bytes, data) for _, data in self._page)
        self.named += named
        self._page = []


@contextmanager
def _crop_writer(store: Store) -> Iterator[CropWriter]:
    """Return a writer whose crops are doomed if the request fails."""
    store.folder.check()
    writer = CropWriter(store)
    try:
        yield writer
    except BaseException:
        with suppress(SQLAlchemyError, ServiceError, OSError), store.change() as change:
            mark_doomed(change.session, writer.sha256s)
        raise


def accept_images(
    serving: Serving,
    uploads: Sequence[tuple[str, BinaryIO]],
    metadata: Sequence[ItemMetadata],
    on_duplicate: OnDuplicate,
    before_commit: BeforeAnswer,
) -> Job:
    """Store the images of a request, and queue and return the job that enrols them.

    Args:
        serving: the service.
        uploads: the name of each image, and its bytes.
        metadata: the metadata of each image.
        on_duplicate: as for `enroll`.
        before_commit: called within the transaction.

    Raises:
        CropMissing: a crop was deleted while the request was stored; nothing is queued.
    """
    with _crop_writer(serving.store) as writer:
        for name, upload in uploads:
            writer.add(name, read_upload(upload, serving.limits))
        writer.flush()
        crops = [
            PendingCrop(name, hashed, known)
            for (name, hashed), known in zip(writer.named, metadata, strict=True)
        ]
        return _queue(serving.store, crops, on_duplicate, 0, before_commit)


def accept_archive(
    serving: Serving,
    file: BinaryIO,
    common: ItemMetadata,
    layout: Layout,
    on_duplicate: OnDuplicate,
    before_commit: BeforeAnswer,
) -> Job:
    """Store the crops of an archive, and queue and return the job that enrols them.

    Args:
        serving: the service.
        file: the archive.
        common: metadata for every crop, where neither gallery.csv nor a name gives the field.
        layout: how a name gives metadata, if the archive has no gallery.csv.
        on_duplicate: as for `enroll`.
        before_commit: called within the transaction.

    Raises:
        BadArchive: the archive is refused; nothing is stored.
        CropMissing: a crop was deleted while the request was stored; nothing is queued.
    """
    settings = serving.store.settings
    archive = Archive(file, settings.max_archive_bytes, settings.max_upload_bytes)
    manifest: bytes | None = None
    with _crop_writer(serving.store) as writer:
        for member in archive.members():
            if member.name == MANIFEST:
                manifest = member.data
            else:
                writer.add(member.name, member.data)
        writer.flush()
        if manifest is None:
            crops = crops_of_names(writer.named, layout)
        else:
            crops = crops_of_manifest(manifest, dict(writer.named))
        crops = [replace(crop, metadata=_filled(crop.metadata, common)) for crop in crops]
        return _queue(serving.store, crops, on_duplicate, archive.num_skipped, before_commit)


def _filled(metadata: ItemMetadata, common: ItemMetadata) -> ItemMetadata:
    """Fill the fields of `metadata` that are None from `common`."""
    known = metadata.model_dump(exclude_none=True)
    return metadata.model_copy(update=common.model_dump() | known)


def _queue(
    store: Store,
    crops: Sequence[PendingCrop],
    on_duplicate: OnDuplicate,
    num_skipped: int,
    before_commit: BeforeAnswer,
) -> Job:
    """Add the job and a row for each crop; crops with an error are doomed."""
    with store.change() as change:
        session = change.session
        job = add_job(
            change,
            KIND,
            options={"on_duplicate": on_duplicate, "num_skipped": num_skipped},
            done=sum(crop.error is not None for crop in crops),
            total=len(crops),
        )
        session.flush()
        session.add_all(
            JobFile(
                job_id=job.id,
                position=position,
                name=_storable(crop.name),
                sha256=crop.sha256,
                label=crop.metadata.model_dump(mode="json", exclude_none=True),
                error=crop.error,
            )
            for position, crop in enumerate(crops)
        )
        mark_doomed(session, {crop.sha256 for crop in crops if crop.error and crop.sha256})
        for crop in crops:
            if crop.sha256 and not crop.error and not store.crops.has(crop.sha256):
                raise CropMissing("a crop was deleted while it was stored; send the request again")
        before_commit(session, job)
        return job


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
    on_duplicate: OnDuplicate = (job.options or {}).get("on_duplicate", "store")
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
            enroll(serving, uploads, metadata, on_duplicate, mark_done)
            break
        except (ImageError, DuplicateCrop, NotFinite) as error:
            detail = error.detail if isinstance(error, ImageError) else str(error)
            _mark_failed(serving.store, files.pop(error.position), detail)
            uploads.pop(error.position)
    return was_any


def _mark_done(
    store: Store, job_id: str, files: Sequence[JobFile], session: Session, enrolment: Enrolment
) -> None:
    """Delete the rows of crops, or keep them with a warning, in the transaction that enrols the crops.

    Raises:
        Cancelled: the job has ended, or another process has enrolled one of these crops.
    """
    _count_done(session, job_id, len(files))
    # A doomed crop is not deleted while an item keeps it.
    mark_doomed(session, {file.sha256 for file in files if file.sha256})
    positions = [file.position for file in files]
    pending = JobFile.job_id == job_id, JobFile.position.in_(positions), is_pending()
    if session.execute(delete(JobFile).where(*pending)).rowcount != len(files):  # type: ignore[attr-defined]
        raise Cancelled("another process does this job")
    names = [file.name for file in files]
    for warned in warn(enrolment.items, names, store.settings, store.clock.now()):
        file, item = files[warned.position], enrolment.items[warned.position]
        row = JobFile(job_id=job_id, position=file.position, name=file.name)
        row.label = file.label | {"item_id": item.id}
        row.warning = {"code": warned.code, "detail": warned.detail}
        session.add(row)


def _mark_failed(store: Store, file: JobFile, detail: str) -> None:
    with store.change() as change:
        _count_done(change.session, file.job_id, 1)
        statement = update(JobFile).where(JobFile.job_id == file.job_id, JobFile.position == file.position)
        change.session.execute(statement.values(error=detail))
        if file.sha256:
            mark_doomed(change.session, [file.sha256])


def _count_done(session: Session, job_id: str, num: int) -> None:
    """Count `num` more files of a job as done.

    Raises:
        Cancelled: the job was cancelled, or has ended otherwise.
    """
    row = session.get_one(Job, job_id)
    advance(session, job_id, row.done + num, row.total)


def _storable(name: str) -> str:
    """Return a name in a form that every database can store.

    >>> _storable(chr(0) + "b")
    '?b'
    """
    return name.encode("utf-8", "replace").decode().replace("\0", "?")[:MAX_NAME]
