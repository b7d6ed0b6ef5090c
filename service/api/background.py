"""Background work of a server process: loading at the start, then tasks that repeat until shutdown."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event, Thread

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from service.api.access import Callers
from service.api.claims import Claims
from service.audit.log import Audit
from service.errors import ServiceError
from service.jobs.limits import delete_old_jobs
from service.jobs.workers import Worker
from service.people.expiry import Expiry
from service.serving.generation import Generation
from service.serving.serving import Serving
from service.upkeep.orphans import purge_orphans
from service.upkeep.repairs import purge_replaced
from service.upkeep.startup import start
from service.versions.converted import purge_gone_networks

logger = structlog.get_logger(__name__)

TICK_S = 0.5
"""Pause between two runs of the most frequent tasks, in seconds."""

MINUTE_S = 60.0
HOUR_S = 3600.0

RUNS_AGAIN = "background task failed; it will run again"


@dataclass(frozen=True)
class Task:
    """A function that is called repeatedly, in a thread of its own.

    Attributes:
        name: the name of the task in the log.
        work: the function.
        every_s: the pause between two calls, in seconds.
        wake: an event that ends the pause. `work` must clear the event, unless the event means shutdown.
    """

    name: str
    work: Callable[[], None]
    every_s: float
    wake: Event


class Background:
    """Background tasks of one server process. A task that fails is logged, and runs again after its pause.

    Attributes:
        expiry: the expiries of this process.
    """

    def __init__(
        self,
        serving: Serving,
        claims: Claims,
        callers: Callers,
        audit: Audit,
        workers: Sequence[Worker],
    ) -> None:
        self._serving = serving
        self._store = serving.store
        self.expiry = Expiry(serving.store)
        self._claims = claims
        self._callers = callers
        self._audit = audit
        self._workers = workers
        self._threads: list[Thread] = []

    async def load(
        self, engine: Engine, on_ready: Callable[[Generation], None], on_failed: Callable[[str], None]
    ) -> None:
        """Load the first generation, put it in service, and start the tasks.

        While the checkpoint of the active model version is lost, loading is tried again every `TICK_S`.
        """
        try:
            generation = await asyncio.to_thread(start, self._serving, engine)
            while generation is None and not self._store.stopping.is_set():
                await asyncio.sleep(TICK_S)
                generation = await asyncio.to_thread(start, self._serving, engine)
        except Exception as error:
            is_expected = isinstance(error, ServiceError)
            reason = str(error) if is_expected else f"{type(error).__name__}: {error}"
            logger.log(logging.ERROR, "start failed", reason=reason, exc_info=not is_expected)
            self._serving.note_failure(f"the service could not start: {reason}")
            on_failed(reason)
            return
        if generation is not None:
            self._serving.replace(generation)
            on_ready(generation)
            self.start(self.tasks())

    def tasks(self) -> list[Task]:
        """Return all tasks of a server process."""
        stopping = self._store.stopping
        return [
            Task("keep_alive", self.keep_alive, TICK_S, stopping),
            Task("follow", self.follow, TICK_S, stopping),
            Task("do_jobs", self.do_jobs, TICK_S, self._store.has_job),
            Task("reserve", self._store.reserve.keep, MINUTE_S, stopping),
            Task("note_uses", self._callers.note_uses, MINUTE_S, stopping),
            Task("audit", self._audit.flush, TICK_S, stopping),
            Task("audit_head", self._audit.say_head, HOUR_S, stopping),
            Task("room", self._store.room.look, MINUTE_S, stopping),
            Task("expire", self.expire, MINUTE_S, self._store.has_expiry),
            Task("purge", self.purge, HOUR_S, stopping),
        ]

    def start(self, tasks: Sequence[Task]) -> None:
        """Start a thread for each task."""
        for task in tasks:
            thread = Thread(target=self._repeat, args=(task,), name=f"background-{task.name}")
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stop the tasks and the jobs of this process, and wait until they have ended."""
        self._store.stopping.set()
        self._store.has_job.set()
        self._store.has_expiry.set()
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            worker.wait()
        self._write_last_rows()
        self._write_last_uses()

    def _write_last_rows(self) -> None:
        """Write the rows of the audit that are still queued."""
        try:
            self._audit.flush()
        except (ServiceError, SQLAlchemyError, OSError) as error:
            num = self._audit.num_queued
            logger.error("the last rows of the audit are lost", rows=num, reason=str(error))  # noqa: TRY400

    def _write_last_uses(self) -> None:
        """Write when keys were used last."""
        try:
            self._callers.note_uses()
        except (ServiceError, SQLAlchemyError, OSError) as error:
            logger.warning("the last uses of keys are not known", reason=str(error))

    def keep_alive(self) -> None:
        """Renew `alive_at` of this process's jobs and claims, so that no other process takes them over."""
        for worker in self._workers:
            worker.keep_alive()
        self._claims.keep_alive()

    def follow(self) -> None:
        """Delete unneeded crops, apply the changes of other processes, and save a snapshot if one is due."""
        self._store.purge_doomed()
        self._serving.refresh()
        self._serving.discard_erased()
        self._serving.save_snapshot()

    def do_jobs(self) -> None:
        """Start the jobs that are due."""
        self._store.has_job.clear()
        for worker in self._workers:
            worker.run_due()

    def expire(self) -> None:
        """Delete old answers, jobs and replaced embeddings, and erase items whose retention time is over."""
        self._store.has_expiry.clear()
        self._claims.delete_old()
        purge_replaced(self._store, self._store.clock.now())
        delete_old_jobs(self._store, self._store.clock.now())
        self.expiry.run()
        self._audit.expire()  # last, because what somebody has written into the audit may stop it

    def purge(self) -> None:
        """Delete the crops that killed requests have left, and the converted networks of deleted versions."""
        purge_orphans(self._store, self._store.clock.now())
        purge_gone_networks(self._store)

    def _repeat(self, task: Task) -> None:
        """Run a task repeatedly until shutdown. The same failure in successive runs is logged once."""
        stopping, reason = self._store.stopping, ""
        task.wake.wait(TICK_S)
        while not stopping.is_set():
            try:
                task.work()
                reason = ""
            except (ServiceError, SQLAlchemyError, OSError) as error:
                if reason != (reason := f"{type(error).__name__}: {error}"):
                    logger.warning(RUNS_AGAIN, task=task.name, reason=reason)
            except Exception as error:
                if reason != (reason := f"{type(error).__name__}: {error}"):
                    logger.exception(RUNS_AGAIN, task=task.name)
            task.wake.wait(task.every_s)
