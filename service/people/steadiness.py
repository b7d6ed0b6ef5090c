"""Whether the clock of the machine has jumped, by what else is known of the time.

A process compares the clock with a clock that never jumps. A process that has just started has nothing to
compare, and goes by the newest time in the database at which the clock was right.
"""

from dataclasses import dataclass
from datetime import datetime

DRIFT_S = 3_600.0
"""Seconds that the clock may differ from the steady clock of the process: more than any correction by NTP."""

GAP_S = 86_400.0
"""Seconds from the newest known time to the clock at a start; the service may have been stopped so long."""

DRIFT_SHARE = 0.1
"""Share of the shortest retention that the clock may differ, if that is less than `DRIFT_S`."""


@dataclass(frozen=True)
class Reading:
    """Both clocks of a process at one moment: the time of day, and seconds that never jump."""

    wall: datetime
    steady_s: float


@dataclass(frozen=True)
class Record:
    """What the database knows of the time.

    Attributes:
        checked_at: the newest time at which the clock was right; None in a new gallery.
        jumped_at: the time at which a process saw that the clock had jumped; None if there was no such jump,
            or if it is settled.
    """

    checked_at: datetime | None
    jumped_at: datetime | None = None


def is_right(reading: Reading, baseline: Reading | None, record: Record, shortest_s: float) -> bool:
    """Tell whether the clock has not jumped, as far as this process can know.

    Args:
        reading: the clocks now.
        baseline: the clocks when this process first found them right, or None.
        record: what the database knows.
        shortest_s: the shortest retention, in seconds.
    """
    checked_at = record.checked_at
    if baseline is not None and checked_at is not None and baseline.wall <= checked_at:
        drift_s = (reading.wall - baseline.wall).total_seconds() - (reading.steady_s - baseline.steady_s)
        return abs(drift_s) <= min(DRIFT_S, DRIFT_SHARE * shortest_s)
    if checked_at is None:
        return True
    is_ahead = record.jumped_at is not None and checked_at < record.jumped_at <= reading.wall
    return not is_ahead and abs((reading.wall - checked_at).total_seconds()) <= min(GAP_S, shortest_s)
