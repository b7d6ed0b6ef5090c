"""/jobs: list jobs, show their progress, and cancel them."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.api.problems import responses
from service.api.routes.dependencies import AnyCaller, ReadyStore, RequestId
from service.api.schemas.jobs import JobAnswer, JobsAnswer, JobState
from service.jobs.jobs import cancel, find_job, list_jobs

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get("", responses=responses(422, 503))
def get_jobs(
    store: ReadyStore,
    request_id: RequestId,
    caller: AnyCaller,
    state: Annotated[
        list[JobState], Query(description="Only jobs in these states; several may be given.")
    ] = [],  # noqa: B006
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> JobsAnswer:
    """List jobs, the newest first."""
    jobs = [JobAnswer.of(progress, request_id) for progress in list_jobs(store, state, limit, caller)]
    return JobsAnswer(request_id=request_id, jobs=jobs)


@router.get("/{job_id}", responses=responses(404, 422, 503))
def get_job(job_id: str, store: ReadyStore, request_id: RequestId, caller: AnyCaller) -> JobAnswer:
    """Show the progress of a job, and the reason if the job has failed."""
    return JobAnswer.of(find_job(store, job_id, caller), request_id)


@router.delete("/{job_id}", status_code=202, responses=responses(404, 409, 422, 503))
def delete_job(job_id: str, store: ReadyStore, request_id: RequestId, caller: AnyCaller) -> JobAnswer:
    """Cancel a job. Items that an import has enrolled stay, and so does the version that is active now."""
    return JobAnswer.of(cancel(store, job_id, caller), request_id)
