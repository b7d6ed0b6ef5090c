"""Which requests are worked on: so many of each class at a time, and a short queue.

Without a limit, every request is worked on, however late. At three times its capacity a service then answers
each request after a minute, and most clients have given up by then. A request that finds the queue full is
told at once to come again, and the others are answered in time.

A request takes its turn when its body has arrived whole, so a slow upload takes no turn. It waits in the
event loop, and holds none of the threads in which work is done.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import metrics
from service.api.problems import service_problem
from service.api.rules import rule_of
from service.errors import Overloaded


class Limit(NamedTuple):
    """How much of one class of requests a process takes.

    Attributes:
        num_working: the most requests that are worked on at a time.
        num_waiting: the most requests that wait for their turn.
        wait_s: the longest that a request waits, in seconds.
    """

    num_working: int
    num_waiting: int
    wait_s: float


LIMITS = {
    "search": Limit(4, 6, 2.0),
    "enrolment": Limit(4, 16, 10.0),
    "change": Limit(8, 32, 10.0),
    "reading": Limit(12, 64, 5.0),
    "session": Limit(2, 16, 5.0),
}
"""One of each class works in a thread. There are 40 threads, so no class can take those of another.

Whoever has no key can sign in, in vain, or out. So these requests have a class of their own."""


class Turns:
    """The turns of one class of requests."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._free = asyncio.Semaphore(limit.num_working)
        self._num_waiting = 0

    def require_room(self) -> None:
        """Check that one more request may wait.

        Raises:
            Overloaded: too many requests wait.
        """
        if self._free.locked() and self._num_waiting >= self._limit.num_waiting:
            raise Overloaded

    async def take(self) -> None:
        """Wait for a turn; whoever has waited longest is next.

        Raises:
            Overloaded: too many requests wait, or no turn has come in time.
        """
        self.require_room()
        self._num_waiting += 1
        try:
            async with asyncio.timeout(self._limit.wait_s):
                with metrics.QUEUE_S.time():
                    await self._free.acquire()
        except TimeoutError:
            raise Overloaded from None
        finally:
            self._num_waiting -= 1

    def give_back(self) -> None:
        """End a turn."""
        self._free.release()


def make_turns(limits: Mapping[str, Limit]) -> dict[str, Turns]:
    """Return the turns of each class of requests."""
    for name in limits:
        metrics.OVERLOADED.labels(name)  # begins at 0, so that Prometheus sees the first refusal
    return {name: Turns(limit) for name, limit in limits.items()}


class FullQueues:
    """Answers 503 `overloaded` to a request that would find its queue full.

    It stands before the caller is looked up and the body is read, because in an overload there are more
    refusals than answers. The scope gets the `rule` of the request.

    Args:
        app: the wrapped app.
        turns: the turns of each class.
    """

    def __init__(self, app: ASGIApp, turns: Mapping[str, Turns]) -> None:
        self._app = app
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            rule = scope["state"]["rule"] = rule_of(scope["method"], scope["path"])
            try:
                if rule.turns is not None:
                    with _refusals_noted(rule.turns, scope):
                        self._turns[rule.turns].require_room()
            except Overloaded as error:
                await service_problem(scope["state"]["request_id"], error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Admission:
    """Gives each request a turn of the class that its rule names, or answers 503 `overloaded`.

    Args:
        app: the wrapped app.
        turns: the turns of each class.
    """

    def __init__(self, app: ASGIApp, turns: Mapping[str, Turns]) -> None:
        self._app = app
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        name = scope["state"]["rule"].turns if scope["type"] == "http" else None
        if name is None:
            await self._app(scope, receive, send)
            return
        turns, has_turn = self._turns[name], False

        async def receive_then_take() -> Message:
            nonlocal has_turn
            message = await receive()
            if not has_turn and message["type"] == "http.request" and not message.get("more_body", False):
                with _refusals_noted(name, scope):  # whoever reads the body may answer the refusal
                    await turns.take()
                has_turn = True
            return message

        try:
            if not _has_body(scope):
                with _refusals_noted(name, scope):
                    await turns.take()
                has_turn = True
            await self._app(scope, receive_then_take, send)
        except Overloaded as error:
            await service_problem(scope["state"]["request_id"], error)(scope, receive, send)
        finally:
            if has_turn:
                turns.give_back()


@contextmanager
def _refusals_noted(name: str, scope: Scope) -> Iterator[None]:
    """Count a request that is refused, and note in its scope that it was."""
    try:
        yield
    except Overloaded:
        metrics.OVERLOADED.labels(name).inc()
        scope["state"]["is_refused"] = True
        raise


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return headers.get("content-length", "0").strip("0") != "" or "transfer-encoding" in headers
