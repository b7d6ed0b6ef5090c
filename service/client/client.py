"""The client of a running service."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, Unpack, cast

import httpx

from service.client.answers import (
    EnrolmentAnswer,
    Erasure,
    Item,
    Job,
    SearchAnswer,
    Session,
    VerifyAnswer,
)
from service.client.models import ModelRequests
from service.client.requests import (
    CropFile,
    Filters,
    GroupBy,
    Layout,
    OnDuplicate,
    given,
    image_parts,
    sendable_name,
)
from service.client.retention import RetentionRequests
from service.client.transport import Transport, read_answer

ARCHIVE_TIMEOUT = httpx.Timeout(3600.0, connect=5.0, pool=None)
JOB_POLL_S = 0.5
PAGE = 500


class Client(ModelRequests, RetentionRequests):
    """A client of one service, which any number of threads may use at once.

    Every method may raise a `ClientError`: `ServiceUnreachable` if no connection can be made, `NoAnswer` if
    the connection breaks or times out, and `Refused` if the service answers with an error. Under Raises, a
    method lists the refusals that its caller may cause.

    Args:
        url: of the service, such as "http://127.0.0.1:8000".
        key: the key to send; by default that of the variable REID_API_KEY, or else the one that `reid login`
            has kept for this URL.

    Raises:
        ServiceUnreachable: `url` is not a URL, or the environment names a proxy that cannot be used.
        ClientError: the file that keeps keys cannot be read, or other users can read it.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self._transport = Transport(url, key)

    def __enter__(self) -> Self:
        """Check that the service answers, and raise a `ClientError` if not."""
        try:
            self._transport.ping()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def enroll(
        self, crops: Sequence[tuple[CropFile, bytes]], *, on_duplicate: OnDuplicate = "return"
    ) -> EnrolmentAnswer:
        """Enrol crops in one request: all of them or none.

        Args:
            crops: 1 to 64 crops, each with the bytes of its image.
            on_duplicate: as for `import_archive`; "reject" refuses the whole request.

        Returns:
            The items, in the order of the crops; `is_new` is false for an item that was there already.

        Raises:
            Refused: an image cannot be used, and `position` says which, or a field is invalid.
        """
        files = [("images", (sendable_name(crop.path), content)) for crop, content in crops]
        metadata = json.dumps([crop.metadata() for crop, _ in crops])
        data = {"metadata": metadata, "on_duplicate": on_duplicate}
        return cast("EnrolmentAnswer", self._send("POST", "/gallery", files=files, data=data))

    def search(
        self,
        paths: Sequence[Path],
        *,
        top_k: int = 10,
        group_by: GroupBy = "identity",
        min_score: float | None = None,
        **filters: Unpack[Filters],
    ) -> SearchAnswer:
        """Search for a person.

        Args:
            paths: 1 to 16 image files of the person.
            top_k: the most matches to return, 1 to 1,000.
            group_by: what to rank: identities, tracks, cameras with their one best item, or items.
            min_score: the lowest score of a match, -1 to 1.
            filters: which items to search.

        Returns:
            The matches, best first.

        Raises:
            OSError: a file cannot be read.
            Refused: an image cannot be used, or a filter is invalid.
        """
        fields = {"top_k": top_k, "group_by": group_by, "min_score": min_score, **filters}
        answer = self._send("POST", "/search", files=image_parts("images", paths), data=given(fields))
        return cast("SearchAnswer", answer)

    def verify(
        self, paths: Sequence[Path], *, others: Sequence[Path] = (), identity_id: str | None = None
    ) -> VerifyAnswer:
        """Compare crops of one person with other crops, or with an identity of the gallery.

        Args:
            paths: image files of one person.
            others: image files of one person to compare with.
            identity_id: the identity to compare with, instead of `others`.

        Returns:
            The score, and the decision if the active model version has thresholds.

        Raises:
            OSError: a file cannot be read.
            Refused: an image cannot be used, there is no such identity, or not exactly one of `others` and
                `identity_id` is given.
        """
        files = [*image_parts("images", paths), *image_parts("other_images", others)]
        answer = self._send("POST", "/verify", files=files, data=given({"identity_id": identity_id}))
        return cast("VerifyAnswer", answer)

    def list_items(self, *, embeddings: bool = False, **filters: Unpack[Filters]) -> Iterator[Item]:
        """Read the items that pass the filters, in the order of enrolment.

        Args:
            embeddings: whether the items come with their embeddings.
            filters: which items to list.

        Raises:
            Refused: a filter is invalid.
        """
        fields = {**filters, "embeddings": True if embeddings else None}
        for page in self._pages("/gallery", fields):
            yield from page["items"]

    def get_image(self, item_id: str) -> tuple[bytes, str] | None:
        """Read the stored crop of an item.

        Returns:
            The bytes as they were enrolled and their media type, such as "image/jpeg"; None if the gallery
            has no such item.

        Raises:
            Refused: the crop is missing (code "crop_missing") or was never kept (code "crop_not_kept").
        """
        response = self._transport.request("GET", f"/gallery/{item_id}/image")
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        if not response.is_success:
            read_answer(response)
        return response.content, response.headers["content-type"]

    def import_archive(
        self,
        name: str,
        archive: BinaryIO,
        *,
        layout: Layout = "flat",
        on_duplicate: OnDuplicate = "return",
        identity_id: str | None = None,
        camera_id: str | None = None,
        captured_at: str | None = None,
        track_id: str | None = None,
    ) -> Job:
        """Send an archive of crops, which the service enrols in the background.

        Args:
            name: the file name of the archive.
            archive: a tar (plain, gz or bz2) or zip. Its gallery.csv describes the crops if there is one.
            layout: how file names describe the crops if there is no gallery.csv.
            on_duplicate: what to do if the same camera has sent the same bytes before: "return" or "skip"
                gives the item of that time, "store" adds another item, and "reject" fails the crop. Only
                "skip" compares the crops of `enroll` that have no camera.
            identity_id: the identity of crops that have none in the archive.
            camera_id: the camera of crops that have none in the archive.
            captured_at: the RFC 3339 time of crops that have none in the archive.
            track_id: the track of crops that have none in the archive.

        Returns:
            The job that enrols the crops.

        Raises:
            Refused: the archive is torn, hostile or too large, or a field is invalid.
        """
        fields = {
            "layout": layout,
            "on_duplicate": on_duplicate,
            "identity_id": identity_id,
            "camera_id": camera_id,
            "captured_at": captured_at,
            "track_id": track_id,
        }
        files = {"archive": (sendable_name(Path(name)), archive)}
        answer = self._send("POST", "/gallery", files=files, data=given(fields), timeout=ARCHIVE_TIMEOUT)
        return cast("Job", answer)

    def get_session(self) -> Session:
        """Read who this client is to the service: the name, the role and the cameras of its key.

        Raises:
            Refused: the service asks for a key, or the key is not valid.
        """
        return cast("Session", self._send("GET", "/session"))

    def list_running_jobs(self) -> list[Job]:
        """Read the jobs that are queued or running, newest first."""
        answer = self._send("GET", "/jobs", params={"state": ["queued", "running"]})
        return cast("list[Job]", answer["jobs"])

    def get_job(self, job_id: str) -> Job:
        """Read the state of a job.

        Raises:
            Refused: there is no such job.
        """
        return cast("Job", self._send("GET", f"/jobs/{job_id}"))

    def follow_job(self, job: Job) -> Iterator[Job]:
        """Read the state of a job twice a second until the job has ended.

        Args:
            job: as another method returned it.

        Yields:
            `job` itself, then each state that was read. In the last state the job has ended.
        """
        while True:
            yield job
            if job["state"] not in {"queued", "running"}:
                return
            time.sleep(JOB_POLL_S)
            job = self.get_job(job["id"])

    def cancel_job(self, job_id: str) -> Job:
        """Cancel a job and return the job.

        Crops that a cancelled import has enrolled stay. A cancelled activation with the strategy "backfill"
        changes nothing.

        Raises:
            Refused: there is no such job, or it has ended.
        """
        return cast("Job", self._send("DELETE", f"/jobs/{job_id}"))

    def list_erasures(self) -> Iterator[Erasure]:
        """Read the receipts of all erasures, oldest first."""
        for page in self._pages("/erasures", {}):
            yield from page["erasures"]

    def _pages(self, path: str, fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        cursor: str | None = ""
        while cursor is not None:
            page = self._send("GET", path, params={"limit": PAGE, **given(fields), "cursor": cursor})
            yield page
            cursor = page["next_cursor"]

    def _send(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        return read_answer(self._transport.request(method, path, **body))
