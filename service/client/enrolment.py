"""Enrol any number of crops, in batches, with several requests at a time."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path

from service.client.client import Client
from service.client.errors import NoAnswer, Refused
from service.client.requests import CropFile, OnDuplicate

IMAGE_STATUSES = frozenset({400, 413, 415, 422})
"""HTTP statuses that blame an image of the request, and not the service."""


@dataclass(frozen=True)
class FailedCrop:
    """A crop that could not be enrolled or exported, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class WarnedCrop:
    """A crop that was enrolled and is doubtful, and why."""

    path: Path
    detail: str


@dataclass
class BatchResult:
    """How many crops of a batch were enrolled, and the crops that were not.

    Attributes:
        num_enrolled: crops that are new in the gallery.
        existing: crops that were there already, each with the identity that it is there as.
        failures: crops that could not be enrolled.
        warnings: crops that were enrolled or there already, and are doubtful.
    """

    num_enrolled: int = 0
    existing: list[tuple[Path, str]] = field(default_factory=list)
    failures: list[FailedCrop] = field(default_factory=list)
    warnings: list[WarnedCrop] = field(default_factory=list)

    @property
    def num_done(self) -> int:
        """How many crops the batch had."""
        return self.num_enrolled + len(self.existing) + len(self.failures)


def enroll_in_batches(
    client: Client,
    crops: Sequence[CropFile],
    *,
    batch_size: int,
    concurrency: int,
    on_duplicate: OnDuplicate = "return",
) -> Iterator[BatchResult]:
    """Enrol crops in batches. If the service refuses a crop, the rest of its batch is still enrolled.

    Args:
        client: of the service.
        crops: the crops to enrol. A file is read when its batch is sent.
        batch_size: crops per request, 1 to 64.
        concurrency: requests at a time.
        on_duplicate: as for `Client.enroll`; "reject" refuses single crops.

    Yields:
        The result of each batch, in the order of the crops.

    Raises:
        ServiceUnreachable: no connection can be made any more. Batches that were not sent are not enrolled.
        Refused: the service refuses every batch, for example because it does not know the route.
    """
    batches = [crops[start : start + batch_size] for start in range(0, len(crops), batch_size)]
    with ThreadPoolExecutor(concurrency) as executor:
        yield from executor.map(lambda batch: _enroll_batch(client, batch, on_duplicate), batches)


def _enroll_batch(client: Client, batch: Sequence[CropFile], on_duplicate: OnDuplicate) -> BatchResult:
    result = BatchResult()
    readable: list[CropFile] = []
    for crop in batch:
        try:
            readable.append(replace(crop, content=crop.read()))
        except OSError as error:
            result.failures.append(FailedCrop(crop.path, error.strerror or str(error)))
    _enroll_all_but_refused(client, readable, on_duplicate, result)
    return result


def _enroll_all_but_refused(
    client: Client, crops: list[CropFile], on_duplicate: OnDuplicate, result: BatchResult
) -> None:
    """Enrol crops, and add the crops that were enrolled, were there already, or have failed to `result`."""
    if not crops:
        return
    try:
        answer = client.enroll(crops, on_duplicate=on_duplicate)
    except NoAnswer as error:
        result.failures += [
            FailedCrop(crop.path, f"{error}; the crop may have been enrolled") for crop in crops
        ]
    except Refused as refusal:
        if refusal.status in IMAGE_STATUSES or refusal.position is not None:
            _enroll_without_refused(client, crops, on_duplicate, refusal, result)
        elif refusal.status < 500 and refusal.status != HTTPStatus.TOO_MANY_REQUESTS:
            raise
        else:
            result.failures += [FailedCrop(crop.path, str(refusal)) for crop in crops]
    else:
        result.warnings += [WarnedCrop(crops[one.position].path, one.detail) for one in answer.warnings]
        for crop, item in zip(crops, answer.items, strict=True):
            if item.is_new:
                result.num_enrolled += 1
            else:
                result.existing.append((crop.path, item.identity_id))


def _enroll_without_refused(
    client: Client,
    crops: list[CropFile],
    on_duplicate: OnDuplicate,
    refusal: Refused,
    result: BatchResult,
) -> None:
    """Enrol the other crops of a refused request, or each crop alone if the refusal names none."""
    position = 0 if len(crops) == 1 else refusal.position
    if position is None or not 0 <= position < len(crops):
        for crop in crops:
            _enroll_all_but_refused(client, [crop], on_duplicate, result)
        return
    result.failures.append(FailedCrop(crops[position].path, str(refusal)))
    _enroll_all_but_refused(client, crops[:position] + crops[position + 1 :], on_duplicate, result)
