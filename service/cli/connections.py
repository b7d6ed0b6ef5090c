"""The HTTP protocol of uvicorn, with limits: to heads and trailers, to slow clients, and to their number.

uvicorn limits only the URL. A header or a trailer of 100 MB held all other requests back for 4 s and more,
because each piece is added to the pieces before it. 24 MB of short headers held them back for 1.5 s, and took
500 MB. A connection on which no request comes, whose body stops half-way, or whose answer is not taken,
stayed open for ever. Where requests come before the answers to those before them, all that one read of
256 KiB held were taken: 14,000 requests, and 29 MB.
"""

import json
import resource
import socket
import struct
import sys
import time
from asyncio import TimerHandle
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any, Protocol

from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service import metrics

MAX_HEAD_BYTES = 1024 * 1024
"""Counted in whole reads of the socket. The read in which a head begins may also hold a body, but a read has
at most 256 KiB, and ordinary heads have a few KiB."""

ANSWER_S = 10
"""Seconds at the end of a graceful shutdown, in which no body comes any more, and requests are answered."""

FREE_DESCRIPTORS = 256
"""File descriptors that are left for the database, crops, jobs and the libraries."""

MIN_CONNECTIONS, MAX_CONNECTIONS = 64, 4_096

BYTES_ACKED_OFFSET = 120
"""Where Linux writes the number of confirmed bytes, of 64 bits, in its `struct tcp_info`."""

RESET = struct.pack("ii", 1, 0)
"""The value of SO_LINGER by which the system throws away what it has not sent."""


def _max_connections() -> int:
    """Return how many connections a process has at most, by the file descriptors that it may open."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, descriptors - FREE_DESCRIPTORS))


class TooManyInLine(Exception):
    """More requests wait on a connection than it may have."""


class GivesWay(Protocol):
    """A connection, or the handshake before it."""

    waits_since_s: float | None

    def give_way(self) -> None:
        """End the connection at once."""


def make_room(connections: Collection[Any], limit: int, newest: GivesWay) -> None:
    """End the connection that has waited longest for its client if there are too many.

    The newest connection ends if all others wait for the service.
    """
    if len(connections) > limit:
        waiting = [(one.waits_since_s, id(one), one) for one in connections if one.waits_since_s is not None]
        metrics.EVICTED.inc()
        longest_waiting = min(waiting)[2] if waiting else newest
        longest_waiting.give_way()


def _count_taken(connection: socket.socket) -> int:
    """Return how many bytes the system of a client has confirmed, or 0 if this system does not count them."""
    if not hasattr(socket, "TCP_INFO"):
        return 0
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED_OFFSET + 8)
    return int.from_bytes(info[BYTES_ACKED_OFFSET:], sys.byteorder)


class BoundedConnection(HttpToolsProtocol):
    """One connection. A client that is too slow is cut off, and a request whose head is too long gets 431.

    A process has `max_connections` connections. If a further one comes, the one that has waited longest for
    its client is closed, so that a probe is answered whoever else has connected.

    Attributes:
        head_s: seconds from the first byte of a head, or from the beginning of a connection, to its end.
        body_s: seconds in which at least `min_body_bytes` of a body must come: 1 KiB a second, which any
            network has.
        min_body_bytes: see `body_s`.
        answer_s: seconds in which the client must take `min_answer_bytes` of an answer, or all if less waits.
        min_answer_bytes: see `answer_s`.
        max_in_line: how many requests may wait for the answers to those before them.
        max_connections: how many connections a process has.
        waits_since_s: since when the service waits for a request, or for the client to take an answer; None
            if the client waits for the service. The clock of the event loop is the same for all that come in
            one turn, so it would not tell which has waited longest.
        handshake: what counted as this connection before its TLS was agreed on.
    """

    head_s = 20.0
    body_s = 20.0
    min_body_bytes = 20 * 1024
    answer_s = 20.0
    min_answer_bytes = 20 * 1024
    max_in_line = 16
    max_connections = _max_connections()

    waits_since_s: float | None = None
    handshake: Any = None

    _under_way: RequestResponseCycle | None = None
    _num_head_bytes = 0
    _num_body_bytes = 0
    _was_paused = False
    _timer: TimerHandle | None = None
    _num_taken = 0
    _num_untaken = 0
    _answer_timer: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin a connection, in place of an idle one if there are too many."""
        self.connections.discard(self.handshake)
        super().connection_made(transport)
        metrics.CONNECTIONS.inc()
        make_room(self.connections, self.max_connections, self)
        self._wait_for_head()
        self._watch_answers()

    def give_way(self) -> None:
        """End the connection at once, without waiting for the client to confirm the end of its TLS."""
        self.waits_since_s = None
        if self.flow.write_paused:
            self._reset()
        else:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection, and the answer under way: uvicorn would end that to the newest request only."""
        if self._under_way is not None:
            self._under_way.disconnected = True
            self._under_way.message_event.set()
        super().connection_lost(exc)
        metrics.CONNECTIONS.dec()
        self._stop_timer()
        self._stop_watching_answers()

    def on_message_begin(self) -> None:
        """Begin to count the bytes of a head."""
        super().on_message_begin()
        self._num_head_bytes = 0
        self._wait_for_head()

    def on_headers_complete(self) -> None:
        """Begin a request, whose body must not stop."""
        if len(self.pipeline) >= self.max_in_line:
            raise TooManyInLine  # which ends the parsing of what has been read
        super().on_headers_complete()
        self._note_wait(None)
        self._watch_body()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body, and count the bytes after it, which may be those of a trailer."""
        super().on_body(body)
        self._num_head_bytes = 0
        self._num_body_bytes += len(body)

    def on_message_complete(self) -> None:
        """End the body of a request."""
        super().on_message_complete()
        self._stop_timer()

    def on_response_complete(self) -> None:
        """End a request; uvicorn closes the connection if no further one comes within five seconds."""
        if not self.pipeline:
            self._note_wait(time.monotonic())
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; if earlier requests wait for answers, end the connection after these."""
        if len(self.pipeline) >= self.max_in_line:
            self._cut_off(b"", f"more than {self.max_in_line} requests wait in line", metrics.IN_LINE)
        elif self._may_refuse():
            super().send_400_response(msg)
        elif self.cycle.more_body:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        """Wait for the client to take a part of its answer."""
        super().pause_writing()
        self.waits_since_s = time.monotonic()

    def resume_writing(self) -> None:
        """Go on with an answer, of which the client has taken tens of kilobytes."""
        super().resume_writing()
        self._num_untaken = 0
        self._note_wait(None if self._is_answering() else time.monotonic())

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        super().data_received(data)
        self._num_head_bytes += len(data)
        self._was_paused = self._was_paused or self.flow.read_paused
        if self._num_head_bytes > MAX_HEAD_BYTES:
            detail = f"the headers have more than {MAX_HEAD_BYTES:,} bytes"
            answer = _problem(431, "headers_too_large", detail) if self._may_refuse() else b""
            self._cut_off(answer, detail, metrics.LARGE_HEAD)
        elif self._timer is None and not self._is_answering():
            self._wait_for_head()  # an empty line begins no head, and uvicorn waits no longer for one

    def shutdown(self) -> None:
        """End the connection: at once, after the answer, or if a body has not come in the time there is."""
        super().shutdown()
        limit_s = self.config.timeout_graceful_shutdown
        if self._timer is not None and limit_s is not None:
            self._start_timer(max(limit_s - ANSWER_S, 0), self.transport.close)

    def _wait_for_head(self) -> None:
        if not self._is_answering():
            self._note_wait(time.monotonic())
        self._start_timer(self.head_s, self._end_without_head)

    def _end_without_head(self) -> None:
        """Close the connection, unless the request before the head that has not ended is being answered."""
        if self._is_answering():
            self._wait_for_head()
        else:
            metrics.SLOW_HEAD.inc()
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._under_way = cycle
        super()._start_asgi_task(cycle, app)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _may_refuse(self) -> bool:
        """Return whether a refusal of what is being read comes after all earlier answers, and within none.

        A client takes the answers in the order of its requests. So a refusal that is written before the
        answer to an earlier request would count as that answer.
        """
        if not self._is_answering():
            return True
        is_read = not self.cycle.more_body
        return not (is_read or self.pipeline or self.cycle.response_started)

    def _note_wait(self, since_s: float | None) -> None:
        """Note since when the client is waited for, unless it has left an answer for longer."""
        if not self.flow.write_paused:
            self.waits_since_s = since_s

    def _watch_answers(self) -> None:
        self._num_untaken = self.transport.get_write_buffer_size()
        self._num_taken = _count_taken(self.transport.get_extra_info("socket"))
        self._answer_timer = self.loop.call_later(self.answer_s, self._end_if_untaken)

    def _end_if_untaken(self) -> None:
        """End the connection if its client has hardly taken anything of what has waited for it all the time.

        The buffer falls late, because the system has a buffer of its own, and only after all of a record of
        TLS. So the bytes count that the client has confirmed, or the buffer where the system does not tell.
        """
        num_confirmed = _count_taken(self.transport.get_extra_info("socket")) - self._num_taken
        num_written = self._num_untaken - self.transport.get_write_buffer_size()
        if max(num_confirmed, num_written) >= min(self._num_untaken, self.min_answer_bytes):
            self._watch_answers()
        else:
            metrics.SLOW_ANSWER.inc()
            self.logger.warning(
                "fewer than %d bytes of an answer were taken in %g s", self.min_answer_bytes, self.answer_s
            )
            self._reset()

    def _reset(self) -> None:
        """End the connection, and throw away what the client has not taken, also in the system's buffer."""
        self._stop_watching_answers()
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()

    def _stop_watching_answers(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()

    def _watch_body(self) -> None:
        self._num_body_bytes, self._was_paused = 0, self.flow.read_paused
        self._start_timer(self.body_s, self._end_if_stopped)

    def _end_if_stopped(self) -> None:
        """Cut the client off if its body has stopped, unless the service itself did not read on."""
        is_ours = self._was_paused or self.cycle.waiting_for_100_continue
        if is_ours or self._num_body_bytes >= self.min_body_bytes:
            self._watch_body()
            return
        detail = f"fewer than {self.min_body_bytes:,} bytes of the body came in {self.body_s:g} s"
        answer = b"" if self.cycle.response_started else _problem(408, "body_too_slow", detail)
        self._cut_off(answer, detail, metrics.SLOW_BODY)

    def _cut_off(self, answer: bytes, reason: str, counter: Counter) -> None:
        if not self.transport.is_closing():
            counter.inc()
            self.logger.warning(reason)
            self.transport.write(answer)
            self.transport.close()

    def _start_timer(self, seconds: float, act: Callable[[], object]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, act)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _problem(status: int, code: str, detail: str) -> bytes:
    title = HTTPStatus(status).phrase
    members = {"type": f"urn:reid-gallery:problem:{code}", "title": title, "status": status}
    body = json.dumps(members | {"detail": detail, "code": code}).encode()
    head = (
        f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
