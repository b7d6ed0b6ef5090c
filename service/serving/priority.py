"""The order of work on the cores: searches before enrolments, backfills and comparisons of identities."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Condition, Lock

from service import metrics

BACKFILL_WAITS_S = 0.2
"""A backfill waits at most this long for searches, in seconds, so that it makes progress under any load."""

ENROLMENT_WAITS_S = 0.1
"""An enrolment waits at most this long for searches, in seconds, because a camera waits for its answer."""

COMPARISON_WAITS_S = 0.05
"""A step of a comparison waits at most this long for searches, in seconds, so that some hundred steps end."""


class Priority:
    """The scheduler of one process, for the threads that share its cores."""

    def __init__(self) -> None:
        self._searches = Condition()
        self._num_searches = 0
        self._enrolment = Lock()

    @contextmanager
    def search(self) -> Iterator[None]:
        """Let enrolments and backfills wait while the caller embeds the crops of a search."""
        with self._searches:
            self._num_searches += 1
        try:
            yield
        finally:
            with self._searches:
                self._num_searches -= 1
                self._searches.notify_all()

    @contextmanager
    def enrolment(self) -> Iterator[None]:
        """Wait until no other enrolment of this process embeds or stores, then for searches.

        Only one enrolment embeds at a time, so that a search shares the cores with at most one enrolment.
        """
        with ExitStack() as held:
            with metrics.QUEUE_S.time():
                held.enter_context(self._enrolment)
                self._wait_for_searches(ENROLMENT_WAITS_S)
            yield

    @contextmanager
    def no_enrolment(self) -> Iterator[None]:
        """Hold back the enrolments of this process, as a cut-over to another model version must."""
        with self._enrolment:
            yield

    def before_backfill(self) -> None:
        """Wait for searches before a backfill embeds its next crops."""
        self._wait_for_searches(BACKFILL_WAITS_S)

    def before_comparison(self) -> None:
        """Wait for searches before identities are compared further."""
        self._wait_for_searches(COMPARISON_WAITS_S)

    def _wait_for_searches(self, at_most_s: float) -> None:
        with self._searches:
            self._searches.wait_for(lambda: not self._num_searches, at_most_s)
