"""/jobs/{id}: how far work in the background is, and how to stop it."""

from fastapi import APIRouter

from service.jobs import cancel, find_job
from service.problems import responses
from service.routes.dependencies import ReadyServing, RequestId
from service.schemas import JobAnswer

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get("/{job_id}", responses=responses(404, 422, 503))
def get_job(job_id: str, serving: ReadyServing, request_id: RequestId) -> JobAnswer:
    """Say how far a job is, and why it failed if it has."""
    return JobAnswer.of(find_job(serving, job_id), request_id)


@router.delete("/{job_id}", status_code=202, responses=responses(404, 409, 422, 503))
def delete_job(job_id: str, serving: ReadyServing, request_id: RequestId) -> JobAnswer:
    """Cancel a job: an import keeps what it has enrolled, an activation leaves everything as it was."""
    return JobAnswer.of(cancel(serving, job_id), request_id)
