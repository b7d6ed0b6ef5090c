"""Threads that do jobs: of each kind one at a time in a process, and no job by two processes."""

from collections.abc import Callable
from threading import Lock, Thread
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service.errors import DatabaseUnavailable, ServiceError
from service.jobs.jobs import Cancelled, Stopped, end, keep_alive, put_back, take_up
from service.store.failures import to_service_error
from service.store.store import Store
from service.store.tables import Job

logger = structlog.get_logger(__name__)

RETRY_S = 2

Work = Callable[[Job], dict[str, Any] | None]
"""Does a job, from where it is, and returns what it found.

It raises Cancelled when it is not wanted any more, and Stopped once `store.stopping` is set.
"""

Troubles = tuple[type[ServiceError], ...]


class Worker:
    """Does the jobs of one kind, the oldest first.

    Args:
        store: what requests share.
        kind: of the jobs.
        work: does one.
        passing: errors that go by themselves: the job is tried again. Any other ends it as failed.
    """

    def __init__(
        self, store: Store, kind: str, work: Work, passing: Troubles = (DatabaseUnavailable,)
    ) -> None:
        self._store = store
        self._kind = kind
        self._work = work
        self._passing = passing
        self._starting = Lock()
        self._thread: Thread | None = None
        self._job_id = ""

    def run_due(self) -> None:
        """Take up a job that nobody does, if this process does none."""
        with self._starting:
            if self._is_busy() or self._store.stopping.is_set():
                return
            job = take_up(self._store, self._kind)
            if job is not None:
                self._job_id = job.id
                self._thread = Thread(target=self._run, args=(job,), name=f"{self._kind}-{job.id}")
                self._thread.start()

    def keep_alive(self) -> None:
        """Say that the job of this process is alive, if there is one; every half second or so."""
        if self._is_busy():
            keep_alive(self._store, self._job_id)

    def wait(self) -> None:
        """Wait until no job is under way; after `store.stopping` is set this is soon."""
        if self._thread is not None:
            self._thread.join()

    def _is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self, job: Job) -> None:
        log = logger.bind(job_id=job.id, kind=job.kind, model_version=job.model_version)
        log.info("job started")
        try:
            result = self._work(job)
        except Cancelled:
            log.info("job cancelled")
        except Stopped:
            put_back(self._store, job.id)
        except (ServiceError, SQLAlchemyError, OSError) as error:
            trouble = (
                error
                if isinstance(error, ServiceError)
                else to_service_error(error) or ServiceError(str(error))
            )
            if isinstance(trouble, self._passing):
                log.warning("job interrupted, it is taken up again", reason=str(trouble))
                self._store.stopping.wait(RETRY_S)
            else:
                log.warning("job failed", reason=str(trouble))
                self._end(job, "failed", str(trouble), trouble.members() or None)
        except Exception as error:
            log.exception("job failed")
            self._end(job, "failed", f"{type(error).__name__}: {error}")
        else:
            log.info("job done")
            self._end(job, "succeeded", None, result)

    def _end(self, job: Job, state: str, error: str | None, result: dict[str, Any] | None = None) -> None:
        """Write down how a job has ended; on a full disk, say, as soon as it can be written."""
        while True:
            try:
                return end(self._store, job.id, state, error, result)
            except (SQLAlchemyError, OSError) as trouble:
                logger.warning("the end of a job cannot be written yet", reason=str(trouble))
                if self._store.stopping.wait(RETRY_S):
                    return None
