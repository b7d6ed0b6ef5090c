"""A process on a gallery that a test interrupts before, within or after one of its transactions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from service.serving.serving import Serving
from service.settings import Settings
from service.store.changes import Transaction
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.upkeep.startup import start

Moment = Literal["before", "within", "after"]


class Died(BaseException):
    """Ends the process of a gallery, as a kill would."""


class InterruptedStore(Store):
    """A store that calls a function at one of its next changes."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, make_sessions(make_engine(settings.database_url)))
        self._left, self._moment, self._happens = 0, "before", die

    def arrange(self, number: int, moment: Moment, happens: Callable[[], None]) -> None:
        """Call ``happens`` before, within or after a change: the ``number``-th of the next changes."""
        self._left, self._moment, self._happens = number, moment, happens

    @contextmanager
    def _alone(self) -> Iterator[Transaction]:
        """Open a transaction that changes the gallery."""
        self._left -= 1
        moment = self._moment if self._left == 0 else None
        if moment == "before":
            self._happens()
        with super()._alone() as change:
            yield change
            if moment == "within":
                self._happens()
        if moment == "after":
            self._happens()


class Process(Serving):
    """The state of one process in memory, with a store that can be interrupted."""

    def __init__(self, settings: Settings) -> None:
        self._interrupted = InterruptedStore(settings)
        super().__init__(self._interrupted)
        generation = start(self, self.store.sessions.engine)
        assert generation is not None
        self.replace(generation)

    def arrange(self, number: int, moment: Moment, happens: Callable[[], None]) -> None:
        """Call ``happens`` before, within or after a change: the ``number``-th of the next changes."""
        self._interrupted.arrange(number, moment, happens)

    def nothing_more(self) -> None:
        """Cancel all arranged calls."""
        self._interrupted.arrange(0, "before", die)

    def end(self) -> None:
        """Close the database connections, as the death of a process does."""
        self.store.sessions.engine.dispose()


def die() -> None:
    """Raise `Died`."""
    raise Died
