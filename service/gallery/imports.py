"""Enrol many crops in the background: POST /gallery with an archive, or with `Prefer: respond-async`.

The request puts the crops' bytes into the CropStore and, in one transaction, a job and a row for each crop.
A worker takes pending rows a few at a time and enrols them as a request would; the rows go in the transaction
that brings the items. So a crash at any moment neither loses nor doubles a crop, and whoever runs next, this
process or another, goes on. Nothing is kept of the archive itself.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import PurePosixPath
from typing import BinaryIO

import structlog
from pydantic import ValidationError
from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from model.data.folders import MANIFEST
from model.data.market import DISTRACTOR_PID, JUNK_PID, parse_market1501_name
from service.errors import BadArchive, CropMissing, DuplicateCrop, ImageError, NotFinite
from service.gallery.duplicates import OnDuplicate
from service.gallery.enrolment import Enrolment, enroll
from service.gallery.metadata import ItemMetadata, Label
from service.jobs.jobs import Cancelled, Stopped, add_job, advance
from service.serving.serving import Serving
from service.store.doomed import mark_doomed
from service.store.tables import Job, JobFile
from service.uploads.archives import MAX_MEMBERS, Archive
from service.uploads.layouts import Layout
from service.uploads.requests import read_upload

logger = structlog.get_logger(__name__)

KIND = "import"
FILES_PER_PAGE = 16
WRITTEN_AT_ONCE = 64
BYTES_AT_ONCE = 32 * 1024 * 1024
MAX_NAME = 1_024


Named = tuple[str, bytes]
BeforeAnswer = Callable[[Session, Job], None]


@dataclass
class File:
    """A crop to enrol, or why it cannot be."""

    name: str
    sha256: str | None
    label: Label
    error: str | None = None


def accept_images(
    serving: Serving,
    uploads: Sequence[tuple[str, BinaryIO]],
    labels: Sequence[Label],
    on_duplicate: OnDuplicate,
    before_commit: BeforeAnswer,
) -> Job:
    """Keep images of a request, by their names, and return the job that enrols them."""
    names = [name or f"images[{place}]" for place, (name, _) in enumerate(uploads)]
    named = zip(names, (read_upload(file, serving.limits) for _, file in uploads), strict=True)
    stored: set[str] = set()
    with _undoing(serving, stored):
        files = [
            File(name, stored_as, label)
            for (name, stored_as), label in zip(_put(serving, named, stored), labels, strict=True)
        ]
        return _queue(serving, files, on_duplicate, 0, before_commit)


def accept_archive(
    serving: Serving,
    file: BinaryIO,
    common: Label,
    layout: Layout,
    on_duplicate: OnDuplicate,
    before_commit: BeforeAnswer,
) -> Job:
    """Keep the crops of an archive and return the job that enrols them.

    Labels are those of its gallery.csv, or else what `layout` makes of a name; `common` fills the gaps.

    Raises:
        BadArchive: it is refused; nothing is stored.
    """
    settings = serving.store.settings
    archive = Archive(file, settings.max_archive_bytes, settings.max_upload_bytes)
    manifests: list[bytes] = []
    stored: set[str] = set()
    with _undoing(serving, stored):
        named = _put(serving, _images(archive, manifests), stored)
        if manifests:
            files = _labelled_by_rows(manifests[0], dict(named))
        else:
            files = _labelled_by_names(named, layout)
        for one in files:
            one.label = _filled(one.label, common)
        return _queue(serving, files, on_duplicate, archive.num_skipped, before_commit)


@contextmanager
def _undoing(serving: Serving, stored: set[str]) -> Iterator[None]:
    """Let go of stored crops if the request fails."""
    try:
        yield
    except BaseException:
        with suppress(SQLAlchemyError), serving.store.change() as change:
            mark_doomed(change.session, stored)
        raise


def _images(archive: Archive, manifests: list[bytes]) -> Iterator[Named]:
    for member in archive.members():
        if member.name == MANIFEST:
            manifests.append(member.data)
        else:
            yield member.name, member.data


def _put(serving: Serving, named: Iterable[Named], stored: set[str]) -> list[tuple[str, str]]:
    """Keep crops and return their names and hashes; `stored` has what may be there, whatever happens."""
    found: list[tuple[str, str]] = []
    page: list[Named] = []

    def write() -> None:
        hashes = [sha256(data).hexdigest() for _, data in page]
        stored.update(hashes)
        serving.store.crops.put_all(partial(bytes, data) for _, data in page)
        found.extend((name, hashed) for (name, _), hashed in zip(page, hashes, strict=True))
        page.clear()

    for one in named:
        page.append(one)
        if len(page) == WRITTEN_AT_ONCE or sum(len(data) for _, data in page) > BYTES_AT_ONCE:
            write()
    write()
    return found


def _labelled_by_rows(manifest: bytes, hash_of: dict[str, str]) -> list[File]:
    """Join the rows of a gallery.csv with the crops that came with it."""
    files: list[File] = []
    try:
        rows = list(csv.DictReader(io.StringIO(manifest.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadArchive(f"{MANIFEST} cannot be read: {error}") from error
    if len(rows) > MAX_MEMBERS:
        raise BadArchive(f"{MANIFEST} has more than {MAX_MEMBERS:,} rows")
    if rows and "path" not in rows[0]:
        raise BadArchive(f"{MANIFEST} has no column named path")
    for row in rows:
        name = "/".join(part for part in (row["path"] or "").split("/") if part not in ("", "."))
        fields = {field: row.get(field) or None for field in ItemMetadata.model_fields}
        file = File(name, hash_of.pop(name, None), Label())
        try:
            file.label = ItemMetadata.model_validate(fields).label()
        except ValidationError as error:
            file.error = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())
        if file.sha256 is None:
            file.error = f"{MANIFEST} names it, and it is not in the archive, or stands in {MANIFEST} twice"
        files.append(file)
    files += [File(name, hashed, Label(), f"{MANIFEST} does not name it") for name, hashed in hash_of.items()]
    return files


def _labelled_by_names(named: Sequence[tuple[str, str]], layout: Layout) -> list[File]:
    files = []
    for name, hashed in named:
        label, error = Label(), None
        if layout is Layout.folders:
            try:
                label = ItemMetadata(identity_id=PurePosixPath(name).parent.name).label()
            except ValidationError as fault:
                error = f"the name of its folder is no identity: {fault.errors()[0]['msg']}"
        elif layout is Layout.market1501:
            pid, camera_id = parse_market1501_name(PurePosixPath(name).name) or (None, None)
            label = Label(identity_id=None if pid == DISTRACTOR_PID else pid, camera_id=camera_id)
            if pid is None:
                error = "its name is not of the Market-1501 form"
            elif pid == JUNK_PID:
                error = "it is junk by its name"
        files.append(File(name, hashed, label, error))
    return files


def _filled(label: Label, common: Label) -> Label:
    return Label(
        label.identity_id or common.identity_id,
        label.camera_id or common.camera_id,
        label.captured_at or common.captured_at,
        label.track_id or common.track_id,
    )


def _queue(
    serving: Serving,
    files: Sequence[File],
    on_duplicate: OnDuplicate,
    num_skipped: int,
    before_commit: BeforeAnswer,
) -> Job:
    """Write down the job and what it is to enrol; crops that cannot be enrolled are let go."""
    with serving.store.change() as change:
        session = change.session
        job = add_job(
            change,
            KIND,
            options={"on_duplicate": on_duplicate, "num_skipped": num_skipped},
            done=sum(file.error is not None for file in files),
            total=len(files),
        )
        session.flush()
        session.add_all(
            JobFile(
                job_id=job.id,
                position=position,
                name=_storable(file.name),
                sha256=file.sha256,
                label=_to_json(file.label),
                error=file.error,
            )
            for position, file in enumerate(files)
        )
        mark_doomed(session, {file.sha256 for file in files if file.error and file.sha256})
        for file in files:
            if file.sha256 and not file.error and not serving.store.crops.has(file.sha256):
                raise CropMissing("a crop went away while it was stored; send the request again")
        before_commit(session, job)
        return job


def run_import(serving: Serving, job: Job) -> None:
    """Enrol the files of a job that are not enrolled yet.

    Raises:
        Cancelled: it is not wanted any more.
        Stopped: the process is going down.
    """
    while _enrol_page(serving, job.id):
        if serving.store.stopping.is_set():
            raise Stopped


def _enrol_page(serving: Serving, job_id: str) -> bool:
    """Enrol the next few files; tell whether there were any."""
    pending = select(JobFile).where(JobFile.job_id == job_id, JobFile.error.is_(None))
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
            _fail(serving, file, str(error))
            files.remove(file)
    while files:
        try:
            labels = [_from_json(file.label) for file in files]
            enroll(serving, uploads, labels, on_duplicate, partial(_mark, job_id, list(files)))
            break
        except (ImageError, DuplicateCrop, NotFinite) as error:
            detail = error.detail if isinstance(error, ImageError) else str(error)
            _fail(serving, files.pop(error.position), detail)
            uploads.pop(error.position)
    return was_any


def _mark(job_id: str, files: Sequence[JobFile], session: Session, _enrolment: Enrolment) -> None:
    """Write down, as they are enrolled, that these files are done."""
    _count(session, job_id, len(files))
    mark_doomed(session, {file.sha256 for file in files if file.sha256})  # but for those that items keep
    positions = [file.position for file in files]
    wanted = JobFile.job_id == job_id, JobFile.position.in_(positions), JobFile.error.is_(None)
    if session.execute(delete(JobFile).where(*wanted)).rowcount != len(files):  # type: ignore[attr-defined]
        raise Cancelled("another process is at this job")


def _fail(serving: Serving, file: JobFile, detail: str) -> None:
    with serving.store.change() as change:
        _count(change.session, file.job_id, 1)
        statement = update(JobFile).where(JobFile.job_id == file.job_id, JobFile.position == file.position)
        change.session.execute(statement.values(error=detail))
        if file.sha256:
            mark_doomed(change.session, [file.sha256])


def _count(session: Session, job_id: str, num: int) -> None:
    """Count files as done.

    Raises:
        Cancelled: the job is not wanted any more.
    """
    row = session.get_one(Job, job_id)
    advance(session, job_id, row.done + num, row.total)


def _storable(name: str) -> str:
    """Return a name as every database can keep it.

    >>> _storable(chr(0) + "b")
    '?b'
    """
    return name.encode("utf-8", "replace").decode().replace("\0", "?")[:MAX_NAME]


def _to_json(label: Label) -> dict[str, str]:
    """Return what is known, fit for JSON.

    >>> _to_json(Label(camera_id="door"))
    {'camera_id': 'door'}
    """
    fields = vars(replace(label, captured_at=None)) | {
        "captured_at": label.captured_at and label.captured_at.isoformat()
    }
    return {name: value for name, value in fields.items() if value is not None}


def _from_json(fields: dict[str, str]) -> Label:
    return ItemMetadata.model_validate(fields).label()
