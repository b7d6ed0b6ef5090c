"""Errors about jobs."""

from service.errors.service_error import ServiceError


class JobNotFound(ServiceError):
    """There is no job of this id."""

    code = "job_not_found"
    status = 404
    title = "Job not found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id[:64]!r}")


class JobEnded(ServiceError):
    """The job has ended, so it cannot be cancelled."""

    code = "job_ended"
    status = 409
    title = "Job ended"

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"job {job_id} has ended: {state}")


class TooManyJobs(ServiceError):
    """Too many imports wait already: of the whole service, or of one key.

    Args:
        num_jobs: how many wait.
        num_files: how many crops they still have to do.
        whose: whose imports they are.
    """

    code = "too_many_jobs"
    status = 503
    title = "Too many jobs"
    retry_after_s = 10

    def __init__(self, num_jobs: int, num_files: int, whose: str) -> None:
        super().__init__(
            f"{num_jobs:,} imports of {whose} with {num_files:,} crops wait already, and no more may wait; "
            "nothing was stored, so send the request again later"
        )
