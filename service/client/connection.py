"""What both transports have in common: how they connect, and what their errors mean to a user."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any
from uuid import uuid4

import httpx

from service.client.calls import Call
from service.client.errors import NoAnswer, ServiceUnreachable
from service.client.keys import find_key
from service.client.problems import PROXY_SAYS, read_json
from service.client.retries import UNCONNECTED

TIMEOUT = httpx.Timeout(120.0, connect=5.0, pool=None)
NAME_IT = "name the URL of the service itself with --url, such as http://127.0.0.1:8000"

KEEPALIVE_EXPIRY_S = 2.0
"""Seconds after which the client closes an idle connection. The server waits 5 s, so no request goes to a
connection that the server is closing."""


class Connection:
    """The URL of a service, and the key to send.

    Args:
        url: of the service, such as "http://127.0.0.1:8000".
        key: the key to send; by default that of REID_API_KEY, or else of `reid login`.

    Raises:
        ClientError: the key cannot be read.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.strip().rstrip("/")
        key = key or find_key(self.url)
        self.options: dict[str, Any] = {
            "timeout": TIMEOUT,
            "limits": httpx.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_EXPIRY_S),
            "headers": {} if key is None else {"Authorization": f"Bearer {key}"},
        }
        self.is_gone = Event()

    def check(self, response: httpx.Response) -> None:
        """Check that what has answered /livez is the service.

        Raises:
            ServiceUnreachable: it is something else.
        """
        if response.status_code in PROXY_SAYS:
            raise ServiceUnreachable(f"{self.url}: {PROXY_SAYS[response.status_code]}")
        if not response.is_success or read_json(response).get("status") != "alive":
            answered = f"{response.status_code} {response.reason_phrase}".strip()
            raise ServiceUnreachable(
                f"what answers at {self.url} is not the service: {self.url}/livez gave {answered}; {NAME_IT}"
            )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise errors of httpx as errors of the client, and note whether the service can be reached."""
        try:
            yield
            self.is_gone.clear()
        except UNCONNECTED as error:
            self.is_gone.set()
            if "[SSL" in str(error):
                hint = "check the certificate; if the service has no TLS, its URL begins with http://"
                raise ServiceUnreachable(f"no encrypted connection to {self.url}: {error}; {hint}") from error
            hint = "start one with `reid serve`, or name another with --url"
            raise ServiceUnreachable(f"no service answers at {self.url}; {hint}") from error
        except httpx.ProxyError as error:
            raise ServiceUnreachable(f"the proxy on the way to {self.url} refuses: {error}") from error
        except httpx.TransportError as error:
            raise NoAnswer(f"no answer from {self.url}: {error or type(error).__name__}") from error


def options_of(call: Call[Any]) -> dict[str, Any]:
    """Return the arguments of httpx for a call; one that is done once gets a key of its own."""
    key = {"headers": {"Idempotency-Key": uuid4().hex}} if call.is_done_once else {}
    return {**call.body, **key}
