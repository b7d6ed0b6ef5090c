"""The budget of memory for decoded images, which all requests of a process share."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

from service import metrics
from service.errors import DecodingBusy

CLAIM_WAITS_S = 2.0
"""A request waits at most this long for memory, in seconds; after that its client had better come again."""


class DecodingBudget:
    """The decoded bytes in flight, and their limit.

    A request claims once, for the most bytes that its images take at a time, before it decodes the first one.
    So no request waits for memory while it holds some, and requests cannot block each other for ever. Claims
    are granted in the order in which they were made.

    Args:
        limit_bytes: the most bytes in flight. A larger claim is granted when nothing else is in flight.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._in_flight = 0
        self._waiting: deque[object] = deque()
        self._changed = Condition()

    @property
    def bytes_in_flight(self) -> int:
        """Number of bytes that are claimed or counted now."""
        return self._in_flight

    @contextmanager
    def claim(self, num_bytes: int, timeout_s: float = CLAIM_WAITS_S) -> Iterator[None]:
        """Hold so many bytes while the caller decodes; wait for them briefly.

        Args:
            num_bytes: as `decoded_bytes` says.
            timeout_s: how long to wait, in seconds.

        Raises:
            DecodingBusy: the bytes did not become free in time, or the machine could not give them.
        """
        with metrics.QUEUE_S.time():
            self._take(num_bytes, timeout_s)
        try:
            yield
        except MemoryError:
            raise DecodingBusy from None
        finally:
            self._give_back(num_bytes)

    @contextmanager
    def count(self, num_bytes: int) -> Iterator[None]:
        """Count so many bytes as in flight, without waiting, while the caller decodes a crop of the gallery.

        An activation holds the gallery's lock while it decodes its last crops. If the activation waited for
        the bytes of an enrolment, and the enrolment for the lock, neither would go on.
        """
        with self._changed:
            self._in_flight += num_bytes
        try:
            yield
        finally:
            self._give_back(num_bytes)

    def _take(self, num_bytes: int, timeout_s: float) -> None:
        ticket = object()
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or not self._has_room(num_bytes):
                    left_s = deadline_s - time.monotonic()
                    if left_s <= 0:
                        raise DecodingBusy
                    self._changed.wait(left_s)
                self._in_flight += num_bytes
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _has_room(self, num_bytes: int) -> bool:
        return not self._in_flight or self._in_flight + num_bytes <= self._limit_bytes

    def _give_back(self, num_bytes: int) -> None:
        with self._changed:
            self._in_flight -= num_bytes
            self._changed.notify_all()
