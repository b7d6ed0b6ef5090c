"""The clocks of a process: the time of day, which may jump, and a clock that only goes on."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from service.store.tables import now

STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""The clock of the system that no setting moves and that goes on while the machine sleeps.

Linux stops CLOCK_MONOTONIC while the machine sleeps, and macOS does not.
"""


def steady_s() -> float:
    """Return the seconds of a clock that never jumps; only differences have a meaning."""
    return time.clock_gettime(STEADY)


@dataclass(frozen=True)
class Clock:
    """The two clocks of one process; tests pass in their own.

    Attributes:
        now: returns the time of day, aware. It jumps when somebody sets the clock of the machine.
        steady_s: returns seconds that never jump. Only differences within one process have a meaning.
    """

    now: Callable[[], datetime] = now
    steady_s: Callable[[], float] = steady_s
