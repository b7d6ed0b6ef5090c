"""Jobs: work that outlives its request, that any process may do, and that any caller may cancel.

The process that does a job updates `alive_at` every half second. A job whose `alive_at` is old has lost its
process, so another process claims the job and continues where the lost process stopped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from service.audit.entries import record
from service.errors import JobEnded, JobNotFound
from service.keys.callers import ANYBODY, Caller, Role, acting_key_id
from service.store.changes import Transaction
from service.store.clock import Clock
from service.store.doomed import mark_doomed
from service.store.store import Store
from service.store.tables import Identity, Item, Job, JobFile, is_pending, new_id, now

NOT_ENDED = ("queued", "running")
"""The states of a job that has not ended."""

LEASE = timedelta(seconds=10)
"""A job that is not kept alive for this long looks dead. `Watch` tells a jump of the clock from that."""

SECOND_LOOK_S = 2.0
"""A job that looks dead is looked at again after so many seconds; a living one has changed `alive_at`."""

CANCELLED = "it was cancelled"
MAX_LISTED = 1_000
"""Failed files, and files whose crop was there already, that the state of a job lists."""


class Cancelled(Exception):
    """The running job was cancelled, so its work must stop; no caller of the API ever sees this exception."""


class Stopped(Exception):
    """The process is shutting down, so the running job goes back into the queue."""


@dataclass(frozen=True)
class FileError:
    """Why a file of a job was not enrolled; `position` is its place in the request."""

    position: int
    name: str
    detail: str


@dataclass(frozen=True)
class FileWarning:
    """What is doubtful about a file that a job has enrolled; `position` is its place in the request."""

    position: int
    name: str
    code: str
    detail: str


@dataclass(frozen=True)
class ExistingFile:
    """A file of a job whose crop was in the gallery already, as an item of an identity."""

    position: int
    name: str
    item_id: str
    identity_id: str


@dataclass(frozen=True)
class Progress:
    """A job, and the first `MAX_LISTED` files of each kind that a caller should know of.

    Attributes:
        row: the job.
        num_failed: how many files have failed.
        errors: files that have failed.
        existing: files whose crop was there already, unless the item was deleted since.
        num_warnings: how many files have a warning.
        warnings: files that were enrolled and are doubtful.
    """

    row: Job
    num_failed: int = 0
    errors: Sequence[FileError] = ()
    existing: Sequence[ExistingFile] = ()
    num_warnings: int = 0
    warnings: Sequence[FileWarning] = ()


class Watch:
    """Tells a job that has died from a job that looks dead because the clock has jumped.

    The process that does a job changes `alive_at` every half second, whatever time it writes. So a job has
    died if `alive_at` is as it was `SECOND_LOOK_S` seconds ago by a clock that never jumps.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[datetime, float]] = {}

    def has_died(self, job: Job) -> bool:
        """Tell whether a job that looks dead has died; the first look never tells."""
        if job.alive_at is None:
            return True
        steady_s = self._clock.steady_s()
        alive_at, seen_s = self._seen.get(job.id, (None, steady_s))
        if alive_at != job.alive_at:
            self._seen[job.id] = job.alive_at, steady_s
            return False
        return steady_s - seen_s >= SECOND_LOOK_S


def add_job(
    change: Transaction,
    kind: str,
    model_version: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    done: int = 0,
    total: int = 0,
) -> Job:
    """Queue and return a job, which begins after the commit.

    Args:
        change: the transaction.
        kind: the kind of worker that does the job.
        model_version: the model version that the job is for, if any.
        options: the options of the worker, fit for JSON.
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
        key_id=acting_key_id(),
    )
    if options is not None:
        job.options = dict(options)
    change.session.add(job)
    change.adds_job = True
    return job


def find_job(store: Store, job_id: str, caller: Caller = ANYBODY) -> Progress:
    """Return the progress of a job.

    Raises:
        JobNotFound: there is no such job, or the caller is limited to some cameras and it is not theirs.
    """
    with store.read() as session:
        return _progress(session, job_id, caller)


def cancel(store: Store, job_id: str, caller: Caller = ANYBODY) -> Progress:
    """Cancel a job that has not ended.

    Items that an import has enrolled stay, and the version that is active at this moment stays active.

    Raises:
        JobNotFound: there is no such job, or the caller is limited to some cameras and it is not theirs.
        RoleTooLow: only an admin may queue and cancel such a job.
        JobEnded: the job has ended already.
    """
    with store.change() as change:
        progress = _progress(change.session, job_id, caller)
        caller.require(Role.admin if progress.row.model_version is not None else Role.operator)
        if progress.row.state not in NOT_ENDED:
            raise JobEnded(job_id, progress.row.state)
        mark_ended(change.session, job_id, "cancelled", CANCELLED)
        delete_pending_files(change.session, job_id)
        record(job_id=job_id, kind=progress.row.kind)
        change.session.refresh(progress.row)
    return progress


def list_jobs(store: Store, states: Sequence[str], limit: int, caller: Caller = ANYBODY) -> list[Progress]:
    """Return jobs in these states, or in any state if none is given, the newest first.

    A caller who is limited to some cameras sees only jobs of the same key.
    """
    statement = select(Job.id).order_by(Job.id.desc()).limit(limit)
    if states:
        statement = statement.where(Job.state.in_(states))
    if caller.cameras is not None:
        statement = statement.where(Job.key_id == caller.key_id)
    with store.read() as session:
        return [_progress(session, job_id, caller) for job_id in session.scalars(statement).all()]


def claim_job(store: Store, kind: str, watch: Watch | None = None) -> Job | None:
    """Claim the oldest job of a kind that is queued or whose process has died, or return None.

    Args:
        store: the gallery.
        kind: the kind of the job.
        watch: what this process has seen of jobs that look dead; None takes only those without `alive_at`.
    """
    watch = watch or Watch(store.clock)
    due = select(Job).where(Job.kind == kind, or_(Job.state == "queued", is_dead()))
    with store.read() as session:
        found = session.scalars(due).all()
    claimable = {job.id: job.alive_at for job in found if job.state == "queued" or watch.has_died(job)}
    if not claimable:
        return None
    with store.change() as change:
        for job in change.session.scalars(due.order_by(Job.created_at, Job.id)):
            if job.id in claimable and job.alive_at == claimable[job.id]:
                job.state, job.alive_at, job.started_at = "running", now(), job.started_at or now()
                return job
    return None


def requeue(store: Store, job_id: str) -> None:
    """Put a running job back into the queue, for the next free worker of any process."""
    with store.write() as session:
        statement = update(Job).where(Job.id == job_id, Job.state == "running")
        session.execute(statement.values(state="queued", alive_at=None))


def keep_alive(store: Store, job_id: str) -> None:
    """Note that this process still does the job."""
    with store.write() as session:
        statement = update(Job).where(Job.id == job_id, Job.state.in_(NOT_ENDED))
        session.execute(statement.values(alive_at=now()))


def end_job(
    store: Store, job_id: str, state: str, error: str | None, result: dict[str, Any] | None = None
) -> None:
    """End a job that has not ended, and delete the files that the job has not enrolled."""
    with store.change() as change:
        mark_ended(change.session, job_id, state, error, result)
        delete_pending_files(change.session, job_id)


def advance(session: Session, job_id: str, done: int, total: int) -> None:
    """Store how many of `total` files of a job are done.

    Raises:
        Cancelled: the job was cancelled, or has ended otherwise.
    """
    statement = update(Job).where(Job.id == job_id, Job.state.in_(NOT_ENDED))
    values = {
        "state": "running",
        "done": done,
        "total": total,
        "started_at": func.coalesce(Job.started_at, now()),
    }
    if not session.execute(statement.values(values)).rowcount:  # type: ignore[attr-defined]
        raise Cancelled(CANCELLED)


def require_running(session: Session, job_id: str) -> None:
    """Check that a job has not ended; within a `Transaction` the job cannot be cancelled before the commit.

    Raises:
        Cancelled: the job was cancelled, or has ended otherwise.
    """
    if session.scalar(select(Job.state).where(Job.id == job_id)) not in NOT_ENDED:
        raise Cancelled(CANCELLED)


def mark_ended(
    session: Session, job_id: str, state: str, error: str | None, result: dict[str, Any] | None = None
) -> None:
    """Mark a job that has not ended as ended.

    Args:
        session: a session that writes.
        job_id: the job.
        state: succeeded, failed or cancelled.
        error: why the job did not succeed.
        result: the result of the work, fit for JSON.
    """
    statement = update(Job).where(Job.id == job_id, Job.state.in_(NOT_ENDED))
    session.execute(statement.values(state=state, error=error, result=result, finished_at=now()))


def delete_pending_files(session: Session, job_id: str) -> None:
    """Delete the files that a job has not enrolled, and doom their crops."""
    pending = JobFile.job_id == job_id, is_pending()
    mark_doomed(
        session, {sha256 for sha256 in session.scalars(select(JobFile.sha256).where(*pending)) if sha256}
    )
    session.execute(delete(JobFile).where(*pending))


def is_dead() -> ColumnElement[bool]:
    """Return the SQL condition for jobs that have not ended and were not kept alive.

    A job whose `alive_at` is in the future is dead too: the clock was set back since.
    """
    moment = now()
    return Job.state.in_(NOT_ENDED) & or_(
        Job.alive_at.is_(None), ~Job.alive_at.between(moment - LEASE, moment + LEASE)
    )


def _progress(session: Session, job_id: str, caller: Caller = ANYBODY) -> Progress:
    job = session.get(Job, job_id)
    if job is None or (caller.cameras is not None and job.key_id != caller.key_id):
        raise JobNotFound(job_id)
    options = job.options or {}
    num_failed, failed = _first_files(session, job_id, JobFile.error.is_not(None))
    num_warnings, warned = _first_files(session, job_id, JobFile.warning.is_not(None))
    existing = (
        select(JobFile.position, JobFile.name, Item.id, Identity.id)
        .join(Item, Item.id == JobFile.item_id)
        .join(Identity)
        .where(JobFile.job_id == job_id)
        .order_by(JobFile.position)
    )
    if caller.cameras is not None:  # an item may have been moved to another camera since
        existing = existing.where(Item.camera_id.in_(caller.cameras))
    warnings = [FileWarning(**warning) for warning in options.get("warnings", [])]
    warnings += [FileWarning(file.position, file.name, **(file.warning or {})) for file in warned]
    return Progress(
        job,
        num_failed + options.get("num_unlisted", 0),
        [FileError(file.position, file.name, file.error or "") for file in failed],
        [ExistingFile(*row) for row in session.execute(existing)],
        num_warnings + options.get("num_warnings", 0),
        warnings[:MAX_LISTED],
    )


def _first_files(
    session: Session, job_id: str, condition: ColumnElement[bool]
) -> tuple[int, Sequence[JobFile]]:
    """Return how many files of a job meet a condition, and the first `MAX_LISTED` of them."""
    wanted = JobFile.job_id == job_id, condition
    num = session.scalar(select(func.count()).select_from(JobFile).where(*wanted)) or 0
    first = select(JobFile).where(*wanted).order_by(JobFile.position).limit(MAX_LISTED)
    return num, session.scalars(first).all() if num else []
