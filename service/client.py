"""Talk to a running service over HTTP: the only place where the command line meets the API.

Requests that never reached the service, and those it put off (429, 503), are sent again a few times, and for
two minutes while the service starts. A request that got no answer is not: the service may have stored the
crops, and would then store them twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, BinaryIO, Self

import httpx

RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
MAX_RETRY_AFTER_S = 30.0
PUT_OFF = frozenset({429, 503})
ABOUT_THE_IMAGES = frozenset({400, 413, 415, 422})
TIMEOUT = httpx.Timeout(120.0, connect=5.0, pool=None)
ARCHIVE_TIMEOUT = httpx.Timeout(3600.0, connect=5.0, pool=None)
JOB_POLL_S = 0.5
PAGE = 500
CROP_MISSING = "crop_missing"
NOT_READY = "not_ready"
READY_WITHIN_S = 120.0
# An idle connection is dropped well before the server's 5 s are over: none is reused as the server closes it.
KEEPALIVE_EXPIRY_S = 2.0


class ClientError(Exception):
    """A request to the service did not succeed; the message is fit to show to a user.

    ClientError
    ├── ServiceUnreachable   nothing listens at the URL, or it is not a URL
    ├── NoAnswer             the connection broke or timed out after the request was sent
    └── Refused              the service answered with an error
    """


class ServiceUnreachable(ClientError):
    """Nothing listens at the URL."""


class NoAnswer(ClientError):
    """The connection broke or timed out after the request was sent."""


class Refused(ClientError):
    """The service answered with an error; `position` is that of the image at fault, if it is named."""

    def __init__(self, status: int, detail: str, position: int | None, code: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.position = position


@dataclass(frozen=True)
class CropFile:
    """One image file and what is known about it before it is enrolled."""

    path: Path
    identity_id: str | None = None
    camera_id: str | None = None

    def metadata(self) -> dict[str, str]:
        """Give the fields that are known, as `POST /gallery` takes them.

        >>> CropFile(Path("a.jpg"), camera_id="3").metadata()
        {'camera_id': '3'}
        """
        known = {"identity_id": self.identity_id, "camera_id": self.camera_id}
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Failure:
    """A crop that was not enrolled, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of one batch."""

    num_enrolled: int
    failures: tuple[Failure, ...]


class Client:
    """A connection pool to one service, for many threads at once; entering it checks that the service lives.

    Raises:
        ServiceUnreachable: nothing listens at the URL, or it is not a URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._is_gone = Event()  # one request has waited in vain: the others need not
        limits = httpx.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_EXPIRY_S)
        try:
            self._http = httpx.Client(base_url=self.url, timeout=TIMEOUT, limits=limits)
        except httpx.InvalidURL as error:
            raise ServiceUnreachable(f"{url} is not a URL: {error}") from error

    def __enter__(self) -> Self:
        try:
            self._send("GET", "/livez", retry_delays_s=())
        except ClientError:
            self._http.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def enroll(self, crops: Sequence[tuple[CropFile, bytes]]) -> dict[str, Any]:
        """Enrol crops in one request, all or none."""
        files = [("images", (_sendable_name(crop.path), content)) for crop, content in crops]
        metadata = json.dumps([crop.metadata() for crop, _ in crops])
        return self._send("POST", "/gallery", files=files, data={"metadata": metadata})

    def search(self, paths: Sequence[Path], fields: dict[str, Any]) -> dict[str, Any]:
        """Search with crops of one person; `fields` are those of the form, and a None is not sent."""
        files = [("images", (_sendable_name(path), path.read_bytes())) for path in paths]
        data = {name: value for name, value in fields.items() if value is not None}
        return self._send("POST", "/search", files=files, data=data)

    def verify(
        self, paths: Sequence[Path], others: Sequence[Path], identity_id: str | None
    ) -> dict[str, Any]:
        """Compare crops of one person with other crops, or with an identity."""
        named = [("images", path) for path in paths] + [("other_images", path) for path in others]
        files = [(field, (_sendable_name(path), path.read_bytes())) for field, path in named]
        data = {} if identity_id is None else {"identity_id": identity_id}
        return self._send("POST", "/verify", files=files, data=data)

    def list_models(self) -> dict[str, Any]:
        """Give the model versions that the service knows."""
        return self._send("GET", "/models")

    def register_model(self, path: Path) -> dict[str, Any]:
        """Send a checkpoint to the service, which keeps it without serving it yet."""
        with path.open("rb") as checkpoint:
            return self._send("POST", "/models", files={"checkpoint": (_sendable_name(path), checkpoint)})

    def activate_model(self, version: str, how: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the service to re-embed its gallery with a version and switch to it; give the job."""
        return self._send("POST", f"/models/{version}/activate", json=how)

    def roll_back(self) -> dict[str, Any]:
        """Ask the service to put the version back that was active before; give the job."""
        return self._send("POST", "/models/rollback")

    def model(self, version: str) -> dict[str, Any]:
        """Give what the service says of a version."""
        return self._send("GET", f"/models/{version}")

    def delete_model(self, version: str) -> None:
        """Delete a version."""
        self._send("DELETE", f"/models/{version}")

    def running_jobs(self) -> list[dict[str, Any]]:
        """Give the jobs that have not ended."""
        jobs: list[dict[str, Any]] = self._send("GET", "/jobs", params={"state": ["queued", "running"]})[
            "jobs"
        ]
        return jobs

    def evaluate_model(self, version: str) -> dict[str, Any]:
        """Ask the service to judge a version beside the active one; give the job."""
        return self._send("POST", f"/models/{version}/evaluate")

    def items(self, fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Give the items that the filters let through, in the order of enrolment, as they are by and by."""
        for page in self._pages("/gallery", fields):
            yield from page["items"]

    def image(self, item_id: str) -> tuple[bytes, str] | None:
        """Give the bytes of an item and their type; None if it is there no more."""
        response = self._request("GET", f"/gallery/{item_id}/image")
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        if not response.is_success:
            _read_answer(response)
        return response.content, response.headers["content-type"]

    def erasures(self) -> list[dict[str, Any]]:
        """Give the receipts of all erasures."""
        return [receipt for page in self._pages("/erasures", {}) for receipt in page["erasures"]]

    def send_archive(self, name: str, archive: BinaryIO, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Send a tar or zip of crops, with the fields of the form; give the job that enrols them."""
        data = {field: value for field, value in fields.items() if value is not None}
        files = {"archive": (_sendable_name(Path(name)), archive)}
        return self._send("POST", "/gallery", files=files, data=data, timeout=ARCHIVE_TIMEOUT)

    def follow(self, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Give the state of a job again and again, until it has ended."""
        while True:
            yield job
            if job["state"] not in {"queued", "running"}:
                return
            time.sleep(JOB_POLL_S)
            job = self.job(job["id"])

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job, and give its state."""
        return self._send("DELETE", f"/jobs/{job_id}")

    def job(self, job_id: str) -> dict[str, Any]:
        """Give the state of a job."""
        return self._send("GET", f"/jobs/{job_id}")

    def _pages(self, path: str, fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        known = {name: value for name, value in fields.items() if value is not None}
        cursor: str | None = ""
        while cursor is not None:
            page = self._send("GET", path, params={"limit": PAGE, **known, "cursor": cursor})
            yield page
            cursor = page["next_cursor"]

    def _send(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        return _read_answer(self._request(method, path, **options))

    def _request(
        self, method: str, path: str, *, retry_delays_s: Sequence[float] = RETRY_DELAYS_S, **body: Any
    ) -> httpx.Response:
        started_s = time.monotonic()
        for delay_s in (*retry_delays_s, None):
            try:
                response = self._http.request(method, path, **body)
                while _is_starting(response) and time.monotonic() < started_s + READY_WITHIN_S:
                    time.sleep(_retry_after_s(response) or RETRY_DELAYS_S[0])
                    response = self._http.request(method, path, **body)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if delay_s is None or self._is_gone.wait(delay_s):
                    self._is_gone.set()
                    raise ServiceUnreachable(self._how_to_start()) from error
            except httpx.TransportError as error:
                raise NoAnswer(f"no answer from {self.url}: {error or type(error).__name__}") from error
            else:
                if delay_s is None or not _is_put_off(response):
                    return response
                time.sleep(_retry_after_s(response) or delay_s)
        raise AssertionError("the last try returns or raises")

    def _how_to_start(self) -> str:
        return f"no service answers at {self.url}; start one with `reid serve`, or name another with --url"


def enroll_in_batches(
    client: Client, crops: Sequence[CropFile], *, batch_size: int, concurrency: int
) -> Iterator[Outcome]:
    """Enrol crops with `concurrency` requests in flight; give the outcomes in the order of the crops.

    A batch that the service refuses for one of its images is sent again without it.

    Raises:
        ServiceUnreachable: the service went away; the batches that were not yet sent are dropped.
        Refused: for a reason that holds for every batch.
    """
    batches = [crops[start : start + batch_size] for start in range(0, len(crops), batch_size)]
    with ThreadPoolExecutor(concurrency) as executor:
        yield from executor.map(lambda batch: _enroll_batch(client, batch), batches)


def _enroll_batch(client: Client, batch: Sequence[CropFile]) -> Outcome:
    readable: list[tuple[CropFile, bytes]] = []
    failures: list[Failure] = []
    for crop in batch:
        try:
            readable.append((crop, crop.path.read_bytes()))
        except OSError as error:
            failures.append(Failure(crop.path, error.strerror or str(error)))
    failures += _enroll_the_good(client, readable)
    return Outcome(len(batch) - len(failures), tuple(failures))


def _enroll_the_good(client: Client, crops: list[tuple[CropFile, bytes]]) -> list[Failure]:
    """Send crops, without those that the service finds fault with; give these."""
    if not crops:
        return []
    try:
        client.enroll(crops)
    except NoAnswer as error:
        return [Failure(crop.path, f"{error}; it may have been stored") for crop, _ in crops]
    except Refused as refusal:
        if refusal.status in ABOUT_THE_IMAGES:
            return _without_the_bad(client, crops, refusal)
        if refusal.status < 500 and refusal.status not in PUT_OFF:
            raise
        return [Failure(crop.path, str(refusal)) for crop, _ in crops]
    return []


def _without_the_bad(client: Client, crops: list[tuple[CropFile, bytes]], refusal: Refused) -> list[Failure]:
    position = 0 if len(crops) == 1 else refusal.position
    if position is None or not 0 <= position < len(crops):
        return [failure for crop in crops for failure in _enroll_the_good(client, [crop])]
    bad, _ = crops[position]
    rest = crops[:position] + crops[position + 1 :]
    return [Failure(bad.path, str(refusal)), *_enroll_the_good(client, rest)]


def _is_starting(response: httpx.Response) -> bool:
    """Tell whether the service is loading its network and index, which takes its time."""
    return response.status_code == httpx.codes.SERVICE_UNAVAILABLE and (
        _read_json(response).get("code") == NOT_READY
    )


def _is_put_off(response: httpx.Response) -> bool:
    """Tell whether the same request may well succeed in a moment; a crop that is gone does not come back."""
    return response.status_code in PUT_OFF and _read_json(response).get("code") != CROP_MISSING


def _read_answer(response: httpx.Response) -> dict[str, Any]:
    body = _read_json(response)
    if response.is_success:
        return body
    detail = body.get("detail") or f"the service answered {response.status_code} {response.reason_phrase}"
    position = body.get("position")
    place = position if isinstance(position, int) else None
    raise Refused(response.status_code, str(detail), place, str(body.get("code") or ""))


def _read_json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json() if response.content else {}
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {"body": body}


def _retry_after_s(response: httpx.Response) -> float | None:
    """Read the header in its form of seconds, at most `MAX_RETRY_AFTER_S`; a date is not understood.

    >>> _retry_after_s(httpx.Response(503, headers={"retry-after": "3"}))
    3.0
    >>> _retry_after_s(httpx.Response(503)) is None
    True
    """
    value = response.headers.get("retry-after", "")
    return min(float(value), MAX_RETRY_AFTER_S) if value.isdecimal() else None


def _sendable_name(path: Path) -> str:
    return path.name.encode(errors="replace").decode()
