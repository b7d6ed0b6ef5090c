"""HTTP requests to one service, repeated as `service.client.retries` says: by threads, or by tasks."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import httpx
from tenacity import AsyncRetrying, Retrying, sleep_using_event

from service.client.calls import Call, Result
from service.client.connection import Connection, options_of
from service.client.errors import ServiceUnreachable
from service.client.proxies import open_async_http, open_http
from service.client.retries import repeats

Request = Callable[..., Coroutine[Any, Any, httpx.Response]]


class Transport:
    """A connection pool to one service, for any number of threads.

    Args:
        url: of the service, such as "http://127.0.0.1:8000".
        key: the key to send; by default that of REID_API_KEY, or else of `reid login`.

    Raises:
        ServiceUnreachable: `url` is not a URL, or the environment names a proxy that cannot be used.
        ClientError: the key cannot be read.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.connection = Connection(url, key)
        try:
            self._http = open_http(self.connection.url, **self.connection.options)
        except ValueError as error:
            raise ServiceUnreachable(str(error)) from error

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def ping(self) -> None:
        """Send one request that tells whether the service answers.

        Raises:
            ServiceUnreachable: no connection could be made, or something else than the service answers.
            NoAnswer: the connection broke or timed out.
        """
        with self.connection.errors():
            response = self._http.request("GET", "/livez")
        self.connection.check(response)

    def send(self, call: Call[Result]) -> Result:
        """Send a request, and return its answer.

        Raises:
            ServiceUnreachable: no connection could be made.
            NoAnswer: the connection broke or timed out after the request was sent.
            Refused: the service answered with an error.
        """
        may_repeat = call.is_safe or call.is_done_once
        try:
            return call.read(self.request(call.method, call.path, may_repeat=may_repeat, **options_of(call)))
        finally:
            for file in call.opened:
                file.close()

    def request(self, method: str, path: str, *, may_repeat: bool = False, **body: Any) -> httpx.Response:
        """Send a request, repeat it if that is safe, and return the last response, which may be an error.

        Args:
            method: the HTTP method.
            path: the path below the URL of the service.
            may_repeat: whether to send it again if no answer comes.
            body: further arguments of `httpx.Client.request`, such as `params` and `files`.

        Raises:
            ServiceUnreachable: no connection could be made.
            NoAnswer: the connection broke or timed out after the request was sent.
        """
        is_gone = self.connection.is_gone
        to_connect, *others = repeats(is_gone, may_repeat=may_repeat)
        request = partial(Retrying(sleep=sleep_using_event(is_gone), **to_connect), self._http.request)
        for options in others:
            request = partial(Retrying(**options), request)
        with self.connection.errors():
            return request(method, path, **body)


class AsyncTransport:
    """A connection pool to one service, for any number of tasks of one event loop.

    Args:
        url: of the service, such as "http://127.0.0.1:8000".
        key: the key to send; by default that of REID_API_KEY, or else of `reid login`.

    Raises:
        ServiceUnreachable: `url` is not a URL, or the environment names a proxy that cannot be used.
        ClientError: the key cannot be read.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.connection = Connection(url, key)
        try:
            self._http = open_async_http(self.connection.url, **self.connection.options)
        except ValueError as error:
            raise ServiceUnreachable(str(error)) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def ping(self) -> None:
        """Send one request that tells whether the service answers; it raises what `Transport.ping` raises."""
        with self.connection.errors():
            response = await self._http.request("GET", "/livez")
        self.connection.check(response)

    async def send(self, call: Call[Result]) -> Result:
        """Send a request, and return its answer; it raises what `Transport.send` raises."""
        request: Request = self._http.request
        for options in repeats(self.connection.is_gone, may_repeat=call.is_safe or call.is_done_once):
            request = _repeated(request, options)
        try:
            with self.connection.errors():
                response = await request(call.method, call.path, **options_of(call))
            return call.read(response)
        finally:
            for file in call.opened:
                file.close()


def _repeated(request: Request, options: dict[str, Any]) -> Request:
    """Return a coroutine function, because tenacity awaits the result of nothing else."""

    async def repeat(*args: Any, **kwargs: Any) -> httpx.Response:
        return await AsyncRetrying(**options)(request, *args, **kwargs)

    return repeat
