"""Methods of the clients, made of functions that describe a request.

`search = Method(search_calls.search)` in the body of a class is a method with the parameters of the function,
which sends the request that the function describes.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import wraps
from typing import Generic, ParamSpec, Protocol, TypeVar

from service.client.calls import Call, Pages

P = ParamSpec("P")
T = TypeVar("T")


class Sender(Protocol):
    """A client that sends requests, and waits for their answers."""

    def send(self, call: Call[T]) -> T:
        """Send a request, and return its answer."""


class AsyncSender(Protocol):
    """A client that sends requests in an event loop."""

    async def send(self, call: Call[T]) -> T:
        """Send a request, and return its answer."""


class _Made(Generic[P, T]):
    """A function that describes a request, in the body of the class of a client."""

    def __init__(self, describe: Callable[P, T]) -> None:
        self.describe = describe
        self.__doc__ = describe.__doc__


class Method(_Made[P, Call[T]]):
    """A method that returns an answer."""

    def __get__(self, client: Sender, owner: type) -> Callable[P, T]:
        """Return the method of a client."""

        @wraps(self.describe)
        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return client.send(self.describe(*args, **kwargs))

        return method


class AsyncMethod(_Made[P, Call[T]]):
    """A method that returns an answer to whoever awaits it."""

    def __get__(self, client: AsyncSender, owner: type) -> Callable[P, Awaitable[T]]:
        """Return the method of a client."""

        @wraps(self.describe)
        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return await client.send(self.describe(*args, **kwargs))

        return method


class PagedMethod(_Made[P, Pages[T]]):
    """A method that returns an iterator over a list, which reads page after page."""

    def __get__(self, client: Sender, owner: type) -> Callable[P, Iterator[T]]:
        """Return the method of a client."""

        @wraps(self.describe)
        def method(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            pages = self.describe(*args, **kwargs)
            cursor: str | None = ""
            while cursor is not None:
                entries, cursor = client.send(pages.page(cursor))
                yield from entries

        return method


class AsyncPagedMethod(_Made[P, Pages[T]]):
    """A method that returns an asynchronous iterator over a list, which reads page after page."""

    def __get__(self, client: AsyncSender, owner: type) -> Callable[P, AsyncIterator[T]]:
        """Return the method of a client."""

        @wraps(self.describe)
        async def method(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
            pages = self.describe(*args, **kwargs)
            cursor: str | None = ""
            while cursor is not None:
                entries, cursor = await client.send(pages.page(cursor))
                for entry in entries:
                    yield entry

        return method
