"""Threads that do jobs: one job of each kind at a time in a process, and no job in two processes."""

from collections.abc import Callable
from threading import Lock, Thread
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service import metrics
from service.errors import DatabaseUnavailable, DecodingBusy, ServiceError
from service.jobs.jobs import Cancelled, Stopped, Watch, claim_job, end_job, keep_alive, requeue
from service.store.failures import to_service_error
from service.store.store import Store
from service.store.tables import Job

logger = structlog.get_logger(__name__)

RETRY_S = 2
"""Pause before a job or the end of a job is tried again, in seconds."""

ENDS = ("succeeded", "failed", "cancelled")
"""The states of a job that has ended."""

Work = Callable[[Job], dict[str, Any] | None]
"""Does a job, from where an earlier process left it, and returns the result of the job, fit for JSON.

It raises Cancelled when the job was cancelled, and Stopped once `store.stopping` is set.
"""

ErrorTypes = tuple[type[ServiceError], ...]


class Worker:
    """Does the jobs of one kind, the oldest first.

    Args:
        store: the database and the crops.
        kind: the kind of the jobs.
        work: does one job.
        transient: errors after which the job is tried again. Any other error ends the job as failed.
    """

    def __init__(
        self, store: Store, kind: str, work: Work, transient: ErrorTypes = (DatabaseUnavailable, DecodingBusy)
    ) -> None:
        self._store = store
        self._kind = kind
        self._work = work
        self._transient = transient
        self._starting = Lock()
        self._watch = Watch(store.clock)
        self._thread: Thread | None = None
        self._job_id = ""
        for state in ENDS:  # a series that begins at 1 hides its first event from Prometheus
            metrics.JOBS_ENDED.labels(kind, state)

    def run_due(self) -> None:
        """Start the next job of this kind that no process does, unless this process does one already."""
        with self._starting:
            if self._is_busy() or self._store.stopping.is_set():
                return
            job = claim_job(self._store, self._kind, self._watch)
            if job is not None:
                self._thread = Thread(target=self._run, args=(job,), name=f"{self._kind}-{job.id}")
                self._thread.start()

    def keep_alive(self) -> None:
        """Keep the job of this process alive, if there is one; call this every half second or so."""
        if self._is_busy():
            keep_alive(self._store, self._job_id)

    def wait(self) -> None:
        """Wait for the end of the running job, which comes soon after `store.stopping` is set."""
        if self._thread is not None:
            self._thread.join()

    def _is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self, job: Job) -> None:
        """Do a job, and then the next jobs of this kind, until none is due."""
        following: Job | None = job
        while following is not None:
            self._job_id = following.id
            self._do(following)
            following = self._claim_next()

    def _claim_next(self) -> Job | None:
        if self._store.stopping.is_set():
            return None
        try:
            return claim_job(self._store, self._kind, self._watch)
        except (SQLAlchemyError, OSError, ServiceError) as error:
            logger.warning("the next job cannot be begun yet", kind=self._kind, reason=str(error))
            return None

    def _do(self, job: Job) -> None:
        log = logger.bind(job_id=job.id, kind=job.kind, model_version=job.model_version)
        log.info("job started")
        try:
            result = self._work(job)
        except Cancelled:
            log.info("job cancelled")
            metrics.JOBS_ENDED.labels(job.kind, "cancelled").inc()
        except Stopped:
            requeue(self._store, job.id)
        except (ServiceError, SQLAlchemyError, OSError) as error:
            failure = (
                error
                if isinstance(error, ServiceError)
                else to_service_error(error) or ServiceError(str(error))
            )
            if isinstance(failure, self._transient):
                log.warning("job interrupted, the job is tried again", reason=str(failure))
                self._store.stopping.wait(RETRY_S)
            else:
                log.warning("job failed", reason=str(failure))
                self._end(job, "failed", str(failure), failure.members() or None)
        except Exception as error:
            log.exception("job failed")
            self._end(job, "failed", f"{type(error).__name__}: {error}")
        else:
            log.info("job done")
            self._end(job, "succeeded", None, result)

    def _end(self, job: Job, state: str, error: str | None, result: dict[str, Any] | None = None) -> None:
        """Store the end of a job; on a failure, such as a full disk, try again unless the process stops."""
        metrics.JOBS_ENDED.labels(job.kind, state).inc()
        while True:
            try:
                return end_job(self._store, job.id, state, error, result)
            except (SQLAlchemyError, OSError) as failure:
                logger.warning("the end of a job cannot be written yet", reason=str(failure))
                if self._store.stopping.wait(RETRY_S):
                    return None
