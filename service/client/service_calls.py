"""The service itself: jobs, statistics, retention, and who the client is to it."""

from collections.abc import Sequence
from datetime import datetime

from service.client.calls import Call, reads
from service.client.requests import given
from service.client.service_answers import (
    ConfirmationAnswer,
    Job,
    JobsAnswer,
    JobState,
    RetentionAnswer,
    Session,
    Stats,
)


def get_session() -> Call[Session]:
    """Read who this client is to the service: the name, the role and the cameras of its key.

    Raises:
        Refused: the service asks for a key, or the key is not valid.
    """
    return Call("GET", "/session", reads(Session), is_safe=True)


def get_stats(*, days: int = 7) -> Call[Stats]:
    """Read how much the gallery holds, and how the service does.

    Args:
        days: how many days of enrolments to count, up to today (UTC), 0 to 92.
    """
    return Call("GET", "/stats", reads(Stats), {"params": {"days": days}}, is_safe=True)


def list_jobs(*, states: Sequence[JobState] = (), limit: int = 20) -> Call[JobsAnswer]:
    """Read the newest jobs, the newest first.

    Args:
        states: only jobs in these states; by default all.
        limit: the most jobs, 1 to 100.
    """
    params = {"state": list(states), "limit": limit}
    return Call("GET", "/jobs", reads(JobsAnswer), {"params": params}, is_safe=True)


def get_job(job_id: str) -> Call[Job]:
    """Read the state of a job.

    Raises:
        Refused: there is no such job.
    """
    return Call("GET", f"/jobs/{job_id}", reads(Job), is_safe=True)


def cancel_job(job_id: str) -> Call[Job]:
    """Cancel a job and return the job.

    Crops that a cancelled import has enrolled stay. A cancelled activation with the strategy "backfill"
    changes nothing.

    Raises:
        Refused: there is no such job, or it has ended.
    """
    return Call("DELETE", f"/jobs/{job_id}", reads(Job))


def get_retention() -> Call[RetentionAnswer]:
    """Read how long items are kept, and which expiry waits for a confirmation."""
    return Call("GET", "/retention", reads(RetentionAnswer), is_safe=True)


def confirm_expiry(as_of: datetime | str) -> Call[ConfirmationAnswer]:
    """Let an expiry go on that waits.

    Args:
        as_of: of the expiry that waits, as `get_retention` returned it.

    Raises:
        Refused: no expiry waits (code "nothing_held"), or another one than at that time.
    """
    body = {"json": given({"as_of": as_of})}
    return Call("POST", "/retention/confirm", reads(ConfirmationAnswer), body, is_done_once=True)
