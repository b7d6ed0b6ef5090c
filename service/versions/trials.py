"""The turn of a network to be tried: one at a time on a data folder, because a trial may take much memory.

The turn is the lock of a file. The process of a trial holds the lock too. So if the service is killed, the
next trial waits until the process that tried a network has ended.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore

from filelock import lock_descriptor

from service.errors import TrialsBusy

LOCK = ".trial.lock"
MAX_WAITING = 8
"""Requests of a process that may be tried or wait at a time, because each holds a thread that others need."""

MAX_WAIT_S = 60.0
POLL_S = 0.05

_places = BoundedSemaphore(MAX_WAITING)


@contextmanager
def turn(data_dir: Path, max_wait_s: float = MAX_WAIT_S) -> Iterator[int]:
    """Wait for the turn, and give back the file descriptor that holds it.

    Raises:
        TrialsBusy: too many wait already, or the turn has not come within `max_wait_s` seconds.
    """
    if not _places.acquire(blocking=False):
        raise TrialsBusy
    try:
        deadline_s = time.monotonic() + max_wait_s
        with (data_dir / LOCK).open("ab") as file:
            while not lock_descriptor(file.fileno(), blocking=False):
                if time.monotonic() > deadline_s:
                    raise TrialsBusy
                time.sleep(POLL_S)
            yield file.fileno()
    finally:
        _places.release()
