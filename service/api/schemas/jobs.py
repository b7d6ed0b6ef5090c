"""Answers about jobs."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel

from service.gallery.ages import WarningCode
from service.jobs.jobs import Progress
from service.store.tables import Job, now

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class FailedFile(BaseModel):
    """A file that was not enrolled; `position` is its place in the request, and `detail` says why."""

    position: int
    name: str
    detail: str


class WarnedFile(BaseModel):
    """A file that was enrolled, what is doubtful about it, and what to do."""

    position: int
    name: str
    code: WarningCode
    detail: str


class ExistingFile(BaseModel):
    """A file whose crop was in the gallery already, by its place in the request, and as whom it is there."""

    position: int
    name: str
    item_id: str
    identity_id: str


class JobAnswer(BaseModel):
    """A job in the background. `done` of `total` items are done, `rate` items a second.

    `seconds_left` is an estimate by the rate. `error` says why the job has failed. `result` is what the job
    has found, such as the comparison of an evaluation.

    A file of an import that is done was enrolled, was in the gallery already, or has failed. `errors`,
    `existing` and `warnings` list the first 1,000 of the `num_failed` files, of the `num_existing` files, and
    of the `num_warnings` files that were enrolled and are doubtful. `skipped` has the numbers of other files
    of an archive, by kind.
    """

    request_id: str
    id: str
    kind: str
    model_version: str | None
    state: JobState
    done: int
    total: int
    rate: float
    seconds_left: float | None
    error: str | None
    result: dict[str, Any] | None
    num_enrolled: int
    num_existing: int
    num_failed: int
    num_skipped: int
    skipped: dict[str, int]
    errors: list[FailedFile]
    existing: list[ExistingFile]
    num_warnings: int
    warnings: list[WarnedFile]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, progress: Progress, request_id: str) -> Self:
        """Return the answer about a job."""
        job, options = progress.row, progress.row.options or {}
        skipped = options.get("skipped", {})
        row = {name: getattr(job, name) for name in cls.model_fields if hasattr(job, name)}
        seconds = ((job.finished_at or now()) - job.started_at).total_seconds() if job.started_at else 0
        rate = job.done / seconds if seconds > 0 else 0.0
        is_known = job.state == "running" and rate > 0
        return cls.model_validate(
            row
            | {
                "request_id": request_id,
                "rate": round(rate, 2),
                "seconds_left": round((job.total - job.done) / rate, 1) if is_known else None,
                "num_enrolled": job.done - job.num_existing - progress.num_failed,
                "num_failed": progress.num_failed,
                "num_skipped": options.get("num_skipped", sum(skipped.values())),
                "skipped": skipped,
                "errors": [vars(error) for error in progress.errors],
                "existing": [vars(one) for one in progress.existing],
                "num_warnings": progress.num_warnings,
                "warnings": [vars(warning) for warning in progress.warnings],
            }
        )

    @classmethod
    def queued(cls, job: Job, request_id: str) -> Self:
        """Return the answer about a job that was just queued, so that none of its files can have failed."""
        return cls.of(Progress(job), request_id)


class JobsAnswer(BaseModel):
    """Jobs, the newest first."""

    request_id: str
    jobs: list[JobAnswer]
