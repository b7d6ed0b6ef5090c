"""Enrol any number of crops, in batches, with several requests at a time."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from service.client.client import Client
from service.client.errors import NoAnswer, Refused
from service.client.requests import CropFile
from service.client.transport import BUSY_STATUSES

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


@dataclass(frozen=True)
class BatchResult:
    """How many crops of a batch were enrolled, the crops that were not, and the doubtful ones."""

    num_enrolled: int
    failures: tuple[FailedCrop, ...]
    warnings: tuple[WarnedCrop, ...] = ()


def enroll_in_batches(
    client: Client, crops: Sequence[CropFile], *, batch_size: int, concurrency: int
) -> Iterator[BatchResult]:
    """Enrol crops in batches. If the service refuses a crop, the rest of its batch is still enrolled.

    Args:
        client: of the service.
        crops: the crops to enrol. A file is read when its batch is sent.
        batch_size: crops per request, 1 to 64.
        concurrency: requests at a time.

    Yields:
        The result of each batch, in the order of the crops.

    Raises:
        ServiceUnreachable: no connection can be made any more. Batches that were not sent are not enrolled.
        Refused: the service refuses every batch, for example because it does not know the route.
    """
    batches = [crops[start : start + batch_size] for start in range(0, len(crops), batch_size)]
    with ThreadPoolExecutor(concurrency) as executor:
        yield from executor.map(lambda batch: _enroll_batch(client, batch), batches)


def _enroll_batch(client: Client, batch: Sequence[CropFile]) -> BatchResult:
    readable: list[tuple[CropFile, bytes]] = []
    failures: list[FailedCrop] = []
    for crop in batch:
        try:
            readable.append((crop, crop.path.read_bytes()))
        except OSError as error:
            failures.append(FailedCrop(crop.path, error.strerror or str(error)))
    warnings: list[WarnedCrop] = []
    failures += _enroll_all_but_refused(client, readable, warnings)
    return BatchResult(len(batch) - len(failures), tuple(failures), tuple(warnings))


def _enroll_all_but_refused(
    client: Client, crops: list[tuple[CropFile, bytes]], warnings: list[WarnedCrop]
) -> list[FailedCrop]:
    """Enrol crops, add those with a warning to `warnings`, and return the crops that were not enrolled."""
    if not crops:
        return []
    try:
        answer = client.enroll(crops)
    except NoAnswer as error:
        return [FailedCrop(crop.path, f"{error}; the crop may have been enrolled") for crop, _ in crops]
    except Refused as refusal:
        if refusal.status in IMAGE_STATUSES:
            return _enroll_without_refused(client, crops, refusal, warnings)
        if refusal.status < 500 and refusal.status not in BUSY_STATUSES:
            raise
        return [FailedCrop(crop.path, str(refusal)) for crop, _ in crops]
    warnings += [WarnedCrop(crops[one["position"]][0].path, one["detail"]) for one in answer["warnings"]]
    return []


def _enroll_without_refused(
    client: Client, crops: list[tuple[CropFile, bytes]], refusal: Refused, warnings: list[WarnedCrop]
) -> list[FailedCrop]:
    """Enrol the other crops of a refused request, or each crop alone if the refusal names none."""
    position = 0 if len(crops) == 1 else refusal.position
    if position is None or not 0 <= position < len(crops):
        return [failure for crop in crops for failure in _enroll_all_but_refused(client, [crop], warnings)]
    refused, _ = crops[position]
    others = crops[:position] + crops[position + 1 :]
    return [FailedCrop(refused.path, str(refusal)), *_enroll_all_but_refused(client, others, warnings)]
