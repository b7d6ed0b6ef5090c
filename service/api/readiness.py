"""Whether this process can answer requests now: the question of GET /readyz."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import structlog

from service.errors import DatabaseUnavailable, ServiceError
from service.store.probe import Probe
from service.store.room import Usage
from service.store.store import Store

logger = structlog.get_logger(__name__)

WITHIN_S = 1.8
"""How long /readyz waits for the database, in seconds. Probes wait little longer."""

Fault = tuple[ServiceError, str]


class Readiness:
    """Asks the database and the data folder, in a thread of its own.

    One question is asked at a time: while the database hangs, later requests wait for the same answer.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._probe = Probe(store.sessions.engine)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._question: asyncio.Future[Fault | Usage] | None = None
        self._reason = ""

    async def require(self) -> Usage:
        """Return how much room there is, if the database answers.

        Raises:
            ServiceError: the database or the data folder cannot be used, or does not answer in time.
        """
        if self._question is None or self._question.done():
            self._question = asyncio.get_running_loop().run_in_executor(self._thread, self._ask)
        question = self._question  # a later request may ask the next one before this one has its answer
        done, _ = await asyncio.wait({question}, timeout=WITHIN_S)
        if not done:
            late = f"the database has not answered for {WITHIN_S:g} s"
            self._log(late)
            raise DatabaseUnavailable(late)
        answer = question.result()
        if isinstance(answer, Usage):
            self._log("")
            return answer
        self._log(answer[1])
        raise answer[0]

    def close(self) -> None:
        """Wait for the question in progress, which ends within the time-outs of the probe."""
        self._thread.shutdown()
        self._probe.close()

    def _ask(self) -> Fault | Usage:
        try:
            self._store.folder.check()
        except (ServiceError, OSError) as error:
            known = error if isinstance(error, ServiceError) else ServiceError(str(error))
            return known, str(error)
        return self._probe.ask() or self._store.room.usage()

    def _log(self, reason: str) -> None:
        """Log a reason once."""
        if reason and reason != self._reason:
            logger.warning("not ready", reason=reason)
        self._reason = reason
