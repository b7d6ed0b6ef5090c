"""A process on a gallery, to which something happens between two of its changes, or in the midst of one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from service.serving.serving import Serving
from service.settings import Settings
from service.store.changes import Changing
from service.store.database import make_engine, make_sessions
from service.upkeep.startup import start

Moment = Literal["before", "within", "after"]


class Died(BaseException):
    """The process of a gallery is gone."""


class Process(Serving):
    """What the requests of one process share; that process may be interrupted at its next changes."""

    def __init__(self, settings: Settings) -> None:
        engine = make_engine(settings.database_url)
        super().__init__(settings, make_sessions(engine))
        self._left, self._moment, self._happens = 0, "before", die
        generation = start(self, engine)
        assert generation is not None
        self.replace(generation)

    def arrange(self, number: int, moment: Moment, happens: Callable[[], None]) -> None:
        """Let this happen before, within or after a change: of those to come the one of this number."""
        self._left, self._moment, self._happens = number, moment, happens

    def nothing_more(self) -> None:
        """Let nothing happen any more."""
        self._left = 0

    @contextmanager
    def changing(self) -> Iterator[Changing]:
        """Open a transaction that changes the gallery."""
        self._left -= 1
        moment = self._moment if self._left == 0 else None
        if moment == "before":
            self._happens()
        with super().changing() as change:
            yield change
            if moment == "within":
                self._happens()
        if moment == "after":
            self._happens()

    def end(self) -> None:
        """Close what a process that dies closes: its connections."""
        self.sessions.engine.dispose()


def die() -> None:
    """Let the process be gone."""
    raise Died
