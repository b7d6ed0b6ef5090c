"""Accept many crops for a job: POST /gallery with an archive, or with `Prefer: respond-async`.

The request stores the bytes of the crops in the CropStore. One transaction then adds a job and a row for each
crop. The worker in `import_worker` enrols the crops of these rows. The archive itself is not kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import PurePosixPath
from typing import BinaryIO

from sqlalchemy import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from model.data.folders import is_manifest_name
from service.audit.entries import record
from service.errors import BadArchive, CropMissing, ServiceError
from service.gallery.duplicates import OnDuplicate
from service.gallery.items import require_seen
from service.gallery.metadata import ItemMetadata
from service.gallery.pending import PendingCrop, crops_of_manifest, crops_of_names
from service.jobs.jobs import MAX_LISTED, add_job
from service.jobs.limits import require_room
from service.keys.callers import Cameras, require_cameras
from service.serving.serving import Serving
from service.store.doomed import mark_doomed
from service.store.store import Store
from service.store.tables import Job, JobFile
from service.uploads.archives import Archive, Member
from service.uploads.layouts import Layout
from service.uploads.requests import read_upload

KIND = "import"
WRITTEN_AT_ONCE = 64
"""Crops that a request holds in memory before it writes them."""

BYTES_AT_ONCE = 32 * 1024 * 1024
"""Bytes of crops after which a request writes the crops that it holds, even if they are few."""

BYTES_PER_ROW = 1_000
"""What a crop of a job takes in the database and in its log, in bytes: a little more than was measured."""

MAX_NAME = 1_024

UNKNOWN_ENCODING = (
    "its name is in an unknown encoding and was read as code page 437; if the name looks wrong, pack the zip "
    "again with names in UTF-8"
)

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
        self._store = store
        self._page: list[tuple[str, bytes]] = []

    def add(self, name: str, data: bytes) -> None:
        """Store a crop, now or with one of the next crops."""
        self._page.append((name, data))
        if len(self._page) == WRITTEN_AT_ONCE or sum(len(data) for _, data in self._page) > BYTES_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Store the crops that are not stored yet.

        Raises:
            StorageFull: there is no room for the crops.
        """
        named = [(name, sha256(data).hexdigest()) for name, data in self._page]
        crops = self._store.crops
        lengths = {hashed: len(data) for (_, data), (_, hashed) in zip(self._page, named, strict=True)}
        new = sum(length for hashed, length in lengths.items() if not crops.has(hashed))
        self._store.room.require({self._store.settings.crops_dir: new})
        self.sha256s.update(lengths)
        crops.put_all(partial(bytes, data) for _, data in self._page)
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
    cameras: Cameras = None,
) -> Job:
    """Store the images of a request, and queue and return the job that enrols them.

    Args:
        serving: the service.
        uploads: the name of each image, and its bytes.
        metadata: the metadata of each image.
        on_duplicate: as for `enroll`.
        before_commit: called within the transaction.
        cameras: the cameras that the caller is limited to.

    Raises:
        CameraForbidden: the caller is limited, and names a camera or a person of others; nothing is queued.
        CropMissing: a crop was deleted while the request was stored; nothing is queued.
        StorageFull: there is no room for the crops; nothing is queued.
    """
    with _crop_writer(serving.store) as writer:
        for name, upload in uploads:
            writer.add(name, read_upload(upload, serving.limits))
        writer.flush()
        crops = [
            PendingCrop(name, hashed, known)
            for (name, hashed), known in zip(writer.named, metadata, strict=True)
        ]
        return _queue(serving.store, crops, on_duplicate, {}, before_commit, cameras)


def accept_archive(
    serving: Serving,
    file: BinaryIO,
    common: ItemMetadata,
    layout: Layout,
    on_duplicate: OnDuplicate,
    before_commit: BeforeAnswer,
    cameras: Cameras = None,
) -> Job:
    """Store the crops of an archive, and queue and return the job that enrols them.

    Args:
        serving: the service.
        file: the archive.
        common: metadata for every crop, where neither gallery.csv nor a name gives the field.
        layout: how a name gives metadata, if the archive has no gallery.csv.
        on_duplicate: as for `enroll`.
        before_commit: called within the transaction.
        cameras: the cameras that the caller is limited to.

    Raises:
        BadArchive: the archive is refused; nothing is stored.
        CameraForbidden: the caller is limited, and names a camera or a person of others; nothing is stored.
        CropMissing: a crop was deleted while the request was stored; nothing is queued.
        StorageFull: there is no room for the crops; nothing is queued.
    """
    settings = serving.store.settings
    archive = Archive(file, settings.max_archive_bytes, settings.max_upload_bytes)
    manifests: list[Member] = []
    hard_links: list[tuple[str, str]] = []
    with _crop_writer(serving.store) as writer:
        for member in archive.members():
            if is_manifest_name(PurePosixPath(member.name).name):
                manifests = _outermost([*manifests, member])
            elif member.same_as is not None:
                hard_links.append((member.name, member.same_as))
            else:
                writer.add(member.name, member.data)
        writer.flush()
        sha256_of = dict(writer.named)
        sha256_of |= {name: sha256_of[target] for name, target in hard_links if target in sha256_of}
        crops = _crops_of(manifests, sha256_of, layout)
        crops = [replace(crop, metadata=_filled(crop.metadata, common)) for crop in crops]
        crops += [PendingCrop(name, None, common, reason) for name, reason in archive.failures]
        guessed = set(archive.guessed_names)
        warnings = [
            {"position": place, "name": crop.name, "code": "unknown_encoding", "detail": UNKNOWN_ENCODING}
            for place, crop in enumerate(crops)
            if crop.name in guessed
        ]
        report = {
            "is_archive": True,
            "skipped": archive.num_skipped,
            "num_warnings": len(warnings),
            "warnings": warnings[:MAX_LISTED],
        }
        return _queue(serving.store, crops, on_duplicate, report, before_commit, cameras)


def _outermost(manifests: Sequence[Member]) -> list[Member]:
    """Return the manifests that lie in the fewest folders; an archive of an archive's folder has others."""
    depths = [member.name.count("/") for member in manifests]
    return [member for member, depth in zip(manifests, depths, strict=True) if depth == min(depths)]


def _crops_of(manifests: Sequence[Member], sha256_of: Mapping[str, str], layout: Layout) -> list[PendingCrop]:
    if not manifests:
        return crops_of_names(list(sha256_of.items()), layout)
    if len(manifests) > 1:
        names = " and ".join(member.name for member in manifests[:2])
        raise BadArchive(f"the archive has {names}; import the folder of each by itself")
    return crops_of_manifest(manifests[0].name, manifests[0].data, sha256_of)


def _filled(metadata: ItemMetadata, common: ItemMetadata) -> ItemMetadata:
    """Fill the fields of `metadata` that are None from `common`."""
    known = metadata.model_dump(exclude_none=True)
    return metadata.model_copy(update=common.model_dump() | known)


def _queue(
    store: Store,
    crops: Sequence[PendingCrop],
    on_duplicate: OnDuplicate,
    report: Mapping[str, object],
    before_commit: BeforeAnswer,
    cameras: Cameras,
) -> Job:
    """Add the job and a row for each crop; crops with an error are doomed.

    Of the crops with an error only the first `MAX_LISTED` get a row, because a gallery.csv of a few kilobytes
    can name hundreds of thousands.
    """
    failed = [place for place, crop in enumerate(crops) if crop.error is not None]
    unlisted = set(failed[MAX_LISTED:])
    require_cameras(cameras, (crop.metadata.camera_id for crop in crops if crop.error is None))
    store.room.require_in_database(BYTES_PER_ROW * (len(crops) - len(unlisted)))
    with store.change() as change:
        session = change.session
        require_seen(session, cameras, (crop.metadata.identity_id for crop in crops))
        require_room(session, KIND, len(crops) - len(failed), store.settings)
        job = add_job(
            change,
            KIND,
            options={"on_duplicate": on_duplicate, "num_unlisted": len(unlisted), **report},
            done=len(failed),
            total=len(crops),
        )
        session.flush()
        rows = [
            {
                "job_id": job.id,
                "position": place,
                "name": _storable(crop.name),
                "sha256": crop.sha256,
                "label": crop.metadata.model_dump(mode="json", exclude_none=True),
                "error": crop.error,
            }
            for place, crop in enumerate(crops)
            if place not in unlisted
        ]
        if rows:
            session.execute(insert(JobFile), rows)
        mark_doomed(session, {crop.sha256 for crop in crops if crop.error and crop.sha256})
        for sha256 in {crop.sha256 for crop in crops if crop.sha256 and not crop.error}:
            if not store.crops.has(sha256):
                raise CropMissing("a crop was deleted while it was stored; send the request again")
        before_commit(session, job)
        record(job_id=job.id, num_files=len(crops))
        return job


def _storable(name: str) -> str:
    """Return a name in a form that every database can store.

    >>> _storable(chr(0) + "b")
    '?b'
    """
    return name.encode("utf-8", "replace").decode().replace("\0", "?")[:MAX_NAME]
