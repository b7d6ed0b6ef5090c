"""Work that outlives its request: who does it says so every half second, and anybody may cancel it.

Whoever looks can tell work that goes on from work whose process has died, and take that up where it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from service.errors import JobEnded, JobNotFound
from service.store.changes import Transaction
from service.store.doomed import mark_doomed
from service.store.store import Store
from service.store.tables import Job, JobFile, new_id, now

RUNNING = ("queued", "running")
LEASE = timedelta(seconds=10)
"""A job that nobody has kept alive for so long is dead; processes on one database need clocks that agree."""

CANCELLED = "it was cancelled"
MAX_ERRORS = 1_000


class Cancelled(Exception):
    """The running job was cancelled, so its work must stop; no caller of the API ever sees this exception."""


class Stopped(Exception):
    """The process is going down, so the running job goes back into the queue."""


@dataclass(frozen=True)
class FileError:
    """Why a file of a job was not enrolled; `position` is its place in the request."""

    position: int
    name: str
    detail: str


@dataclass(frozen=True)
class Progress:
    """A job, how many of its files have failed, and why: the first thousand of them."""

    row: Job
    num_failed: int
    errors: list[FileError]


def add_job(
    change: Transaction,
    kind: str,
    model_version: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    done: int = 0,
    total: int = 0,
) -> Job:
    """Queue a job; it begins after the commit.

    Args:
        change: the transaction.
        kind: which worker does the job.
        model_version: the model version that the job works with, if it works with one.
        options: what the worker needs to know, fit for JSON.
        done: how many of the files are done already.
        total: how many files there are.
    """
    job = Job(
        id=new_id(),
        kind=kind,
        model_version=model_version,
        state="queued",
        done=done,
        total=total,
        created_at=now(),
    )
    if options is not None:
        job.options = dict(options)
    change.session.add(job)
    change.adds_job = True
    return job


def find_job(store: Store, job_id: str) -> Progress:
    """Return the job of this id.

    Raises:
        JobNotFound: there is none.
    """
    with store.read() as session:
        return _progress(session, job_id)


def cancel(store: Store, job_id: str) -> Progress:
    """Cancel a job that has not ended; what it has enrolled stays, an activation leaves all as it was.

    Raises:
        JobNotFound: there is none.
        JobEnded: it has ended.
    """
    with store.change() as change:
        progress = _progress(change.session, job_id)
        if progress.row.state not in RUNNING:
            raise JobEnded(job_id, progress.row.state)
        finish(change.session, job_id, "cancelled", CANCELLED)
        forget_files(change.session, job_id)
        change.session.refresh(progress.row)
    return progress


def list_jobs(store: Store, states: Sequence[str], limit: int) -> list[Progress]:
    """Return jobs in these states, or in any if none is given, the newest first."""
    statement = select(Job.id).order_by(Job.id.desc()).limit(limit)
    if states:
        statement = statement.where(Job.state.in_(states))
    with store.read() as session:
        return [_progress(session, job_id) for job_id in session.scalars(statement).all()]


def take_up(store: Store, kind: str) -> Job | None:
    """Take the oldest job of a kind that is queued or whose process has died, if there is one."""
    due = select(Job).where(Job.kind == kind, or_(Job.state == "queued", is_dead()))
    with store.read() as session:
        if session.scalar(due.limit(1)) is None:
            return None
    with store.change() as change:
        job = change.session.scalar(due.order_by(Job.created_at, Job.id).limit(1))
        if job is not None:
            job.state, job.alive_at, job.started_at = "running", now(), job.started_at or now()
        return job


def put_back(store: Store, job_id: str) -> None:
    """Leave a job to whoever is free next."""
    with store.write() as session:
        statement = update(Job).where(Job.id == job_id, Job.state == "running")
        session.execute(statement.values(state="queued", alive_at=None))


def keep_alive(store: Store, job_id: str) -> None:
    """Say that this job is being done."""
    with store.write() as session:
        statement = update(Job).where(Job.id == job_id, Job.state.in_(RUNNING))
        session.execute(statement.values(alive_at=now()))


def end(
    store: Store, job_id: str, state: str, error: str | None, result: dict[str, Any] | None = None
) -> None:
    """End a job, unless it has ended, and let go of what it has not enrolled."""
    with store.change() as change:
        finish(change.session, job_id, state, error, result)
        forget_files(change.session, job_id)


def advance(session: Session, job_id: str, done: int, total: int) -> None:
    """Say how far a job is.

    Raises:
        Cancelled: it is not wanted any more.
    """
    statement = update(Job).where(Job.id == job_id, Job.state.in_(RUNNING))
    values = {
        "state": "running",
        "done": done,
        "total": total,
        "started_at": func.coalesce(Job.started_at, now()),
    }
    if not session.execute(statement.values(values)).rowcount:  # type: ignore[attr-defined]
        raise Cancelled(CANCELLED)


def require(session: Session, job_id: str) -> None:
    """See to it that a job is still wanted; alone among those who change the gallery, it then stays so.

    Raises:
        Cancelled: it is not.
    """
    if session.scalar(select(Job.state).where(Job.id == job_id)) not in RUNNING:
        raise Cancelled(CANCELLED)


def finish(
    session: Session, job_id: str, state: str, error: str | None, result: dict[str, Any] | None = None
) -> None:
    """End a job, unless it has ended; `result` is what it found."""
    statement = update(Job).where(Job.id == job_id, Job.state.in_(RUNNING))
    session.execute(statement.values(state=state, error=error, result=result, finished_at=now()))


def forget_files(session: Session, job_id: str) -> None:
    """Let go of the crops that a job has not enrolled."""
    pending = JobFile.job_id == job_id, JobFile.error.is_(None)
    mark_doomed(
        session, {sha256 for sha256 in session.scalars(select(JobFile.sha256).where(*pending)) if sha256}
    )
    session.execute(delete(JobFile).where(*pending))


def is_dead() -> ColumnElement[bool]:
    """Tell jobs that run and have not been kept alive; a clock that was set back does not hide them."""
    moment = now()
    return Job.state.in_(RUNNING) & or_(
        Job.alive_at.is_(None), ~Job.alive_at.between(moment - LEASE, moment + LEASE)
    )


def _progress(session: Session, job_id: str) -> Progress:
    job = session.get(Job, job_id)
    if job is None:
        raise JobNotFound(job_id)
    failed = JobFile.job_id == job_id, JobFile.error.is_not(None)
    statement = select(JobFile.position, JobFile.name, JobFile.error).where(*failed)
    rows = session.execute(statement.order_by(JobFile.position).limit(MAX_ERRORS)).all()
    num_failed = session.scalar(select(func.count()).select_from(JobFile).where(*failed)) or 0
    return Progress(job, num_failed, [FileError(row[0], row[1], row[2] or "") for row in rows])
