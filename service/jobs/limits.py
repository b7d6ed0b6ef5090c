"""How many jobs may wait, and how long jobs that have ended are kept."""

from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service.errors import TooManyJobs
from service.jobs.jobs import NOT_ENDED
from service.keys.callers import acting_key_id
from service.settings import Settings
from service.store.store import Store
from service.store.tables import Job

MAX_PENDING_FILES = 1_000_000
"""Files that all jobs together may still have to do."""


def require_room(session: Session, kind: str, num_files: int, settings: Settings) -> None:
    """Check that one more job of a kind may wait, by the key of the caller.

    Raises:
        TooManyJobs: too many jobs of the kind have not ended, or too many of this key, or too many files wait
            in them.
    """
    waiting = select(func.count(), func.coalesce(func.sum(Job.total - Job.done), 0)).where(
        Job.kind == kind, Job.state.in_(NOT_ENDED)
    )
    num_jobs, num_pending = session.execute(waiting).one()
    if num_jobs >= settings.max_jobs or (num_jobs and num_pending + num_files > MAX_PENDING_FILES):
        raise TooManyJobs(num_jobs, num_pending, "this service")
    if (key_id := acting_key_id()) is not None:
        num_jobs, num_pending = session.execute(waiting.where(Job.key_id == key_id)).one()
        if num_jobs >= settings.max_jobs_per_key:
            raise TooManyJobs(num_jobs, num_pending, "this key")


def delete_old_jobs(store: Store, moment: datetime) -> None:
    """Delete the jobs that ended more than REID_KEEP_JOBS_DAYS ago, with their files.

    The newest evaluation of each model version is kept, because an activation may ask for it.
    """
    newest = (
        select(func.max(Job.id))
        .where(Job.state == "succeeded", Job.result.is_not(None))
        .group_by(Job.model_version)
    )
    old = (
        Job.finished_at < moment - timedelta(days=store.settings.keep_jobs_days),
        Job.state.not_in(NOT_ENDED),
        Job.id.not_in(newest),
    )
    with store.read() as session:
        if session.scalar(select(Job.id).where(*old).limit(1)) is None:
            return
    with store.write() as session:
        session.execute(delete(Job).where(*old))
