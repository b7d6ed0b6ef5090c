"""Clients that do not read their answers hold nobody back, and slow ones get all of theirs."""

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from functools import partial

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from certificates import Certificate
from live_server import serve, wait_until
from scraped import scrape
from service.cli.connections import BoundedConnection
from service.cli.handshakes import Handshake
from service.settings import Settings

LARGE = "/static-offline-docs/swagger-ui-bundle.js"
NUM_ASKED = 8
"""How often the file is asked for: the system itself takes up to 4 MiB of the answers."""

SLOW = 'reid_connections_closed_total{reason="slow_answer"}'

Ask = Callable[..., socket.socket]


class Impatient(BoundedConnection):
    """A connection whose client has little time to take an answer."""

    answer_s = 1.0


class ImpatientHandshake(Handshake):
    """A handshake of such a connection."""

    kind = Impatient


class FourConnections(BoundedConnection):
    """A connection of a process that has four, and much time."""

    max_connections = 4
    head_s = 600.0
    answer_s = 600.0


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Ask for large answers over a connection that takes little at once; all are closed at the end."""
    with contextlib.ExitStack() as opened:

        def ask(client: httpx.Client, path: str = LARGE, num_asked: int = NUM_ASKED) -> socket.socket:
            asking = opened.enter_context(socket.socket())
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            asking.settimeout(60)
            asking.connect((client.base_url.host, client.base_url.port))
            if client.base_url.scheme == "https":
                context = ssl._create_unverified_context()  # noqa: S323  # of this machine
                asking = opened.enter_context(context.wrap_socket(asking))
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n"
            asking.sendall(f"{request}\r\n".encode() * (num_asked - 1))
            asking.sendall(f"{request}Connection: close\r\n\r\n".encode())
            return asking

        yield ask


def is_answered(url: httpx.URL) -> bool:
    """Return whether a probe on a connection of its own is answered."""
    try:
        return httpx.get(f"{url}/livez").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("has_tls", [False, True])
def test_a_client_that_takes_nothing_is_cut_off(
    settings: Settings,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    ask: Ask,
    has_tls: bool,
) -> None:
    certificate: Certificate | None = request.getfixturevalue("certificate") if has_tls else None
    protocol = ImpatientHandshake if has_tls else Impatient
    with serve(settings, protocol=protocol, certificate=certificate) as client:
        before = scrape(client)
        for _ in range(3):
            ask(client)
        wait_until(lambda: scrape(client)[SLOW] == before[SLOW] + 3)
        wait_until(lambda: scrape(client)["reid_connections"] <= before["reid_connections"])
        assert "is closed" not in caplog.text  # nothing more is read and written for nobody


@pytest.mark.parametrize("has_tls", [False, True])
def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(
    settings: Settings, request: pytest.FixtureRequest, ask: Ask, has_tls: bool
) -> None:
    certificate: Certificate | None = request.getfixturevalue("certificate") if has_tls else None
    protocol = ImpatientHandshake if has_tls else Impatient
    with serve(settings, protocol=protocol, certificate=certificate) as client:
        size = len(client.get(LARGE).content)
        asking = ask(client)
        received = bytearray()
        end_s = time.monotonic() + 5 * Impatient.answer_s
        while time.monotonic() < end_s:
            received += asking.recv(4096)
            time.sleep(0.05)  # the pace is what is tested
        while piece := asking.recv(65536):
            received += piece
        assert len(received) > NUM_ASKED * size
        assert len(re.findall(rb"HTTP/1.1 200 OK", received)) == NUM_ASKED


def with_endless(app: ASGIApp) -> ASGIApp:
    """Answer with 64 MB at `/endless`."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != "/endless":
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        await send({"type": "http.response.body"})

    return answer


def test_clients_that_take_nothing_give_way_to_further_ones(settings: Settings, ask: Ask) -> None:
    served = serve(settings, wrap=with_endless, protocol=FourConnections)
    with served as client, contextlib.ExitStack() as opened:
        for _ in range(FourConnections.max_connections):
            opened.enter_context(ask(client, "/endless", 1))
        wait_until(partial(is_answered, client.base_url))
        for _ in range(FourConnections.max_connections):
            assert is_answered(client.base_url)
