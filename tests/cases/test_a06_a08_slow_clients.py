"""A6, A8: clients that connect and send nothing, or stop in the midst of a request, hold nobody back."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial

import anyio
import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from live_server import crop, images, serve, wait_until
from raw_requests import is_closed
from scraped import scrape
from service.cli.connections import BoundedConnection
from service.settings import Settings

HEAD = b"POST /gallery HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=a\r\n"
Connect = Callable[[httpx.Client], socket.socket]


class Hasty(BoundedConnection):
    """A connection whose client has little time."""

    head_s = 1.0
    body_s = 1.0
    min_body_bytes = 50


class FewConnections(BoundedConnection):
    """A connection of a process that has eight."""

    max_connections = 8


class TwoConnections(BoundedConnection):
    """A connection of a process that has two."""

    max_connections = 2


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Open a connection to a service; all are closed at the end."""
    opened: list[socket.socket] = []

    def connect(client: httpx.Client) -> socket.socket:
        address = (client.base_url.host, client.base_url.port or 80)
        opened.append(socket.create_connection(address, timeout=30))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def read_to_end(connection: socket.socket) -> bytes:
    """Return what a service sends until it closes the connection; raise an error after 30 seconds."""
    received = b""
    while data := connection.recv(10_000):
        received += data
    return received


def raw_search(client: httpx.Client, content: bytes) -> tuple[bytes, bytes]:
    """Return the head and the body of a search."""
    request = client.build_request("POST", "/search", files=images(content))
    head = [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join(["POST /search HTTP/1.1", *head, "", ""]).encode(), request.read()


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", HEAD + b"X: a", b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET"]
)
def test_a6_a_head_that_does_not_end_is_waited_for_no_longer_than_a_time(
    settings: Settings, connect: Connect, sent: bytes
) -> None:
    with serve(settings, protocol=Hasty) as client:
        connection = connect(client)
        connection.sendall(sent)
        assert read_to_end(connection).startswith(b"HTTP/1.1 200") == sent.startswith(b"GET /livez")


def test_a6_an_empty_line_after_an_answer_keeps_no_connection_open(
    settings: Settings, connect: Connect
) -> None:
    with serve(settings, protocol=Hasty) as client:
        connection = connect(client)
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(10_000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        connection.settimeout(10)
        assert b"HTTP/1.1" not in read_to_end(connection)


def test_a6_idle_connections_give_way_to_further_ones(settings: Settings, connect: Connect) -> None:
    with serve(settings, protocol=FewConnections) as client:
        before = scrape(client)
        opened = [connect(client) for _ in range(40)]
        for connection in opened[::2]:
            with contextlib.suppress(ConnectionError):  # some are closed already
                connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        assert httpx.get(f"{client.base_url}/livez").status_code == 200
        wait_until(lambda: sum(map(is_closed, opened)) >= 32)
        evicted = 'reid_connections_closed_total{reason="evicted"}'
        assert scrape(client)[evicted] >= before[evicted] + 32
        assert httpx.get(f"{client.base_url}/livez").status_code == 200


def test_a6_a_request_under_way_does_not_give_way(settings: Settings, connect: Connect) -> None:
    with serve(settings, protocol=TwoConnections) as client:
        head, body = raw_search(client, crop(1))
        under_way = connect(client)
        under_way.sendall(head + body[:100])
        answer = httpx.get(f"{client.base_url}/livez")
        assert answer.status_code == 200  # by now the head of the other request has come
        idle = [connect(client) for _ in range(10)]
        wait_until(lambda: sum(map(is_closed, idle)) >= 9)
        under_way.sendall(body[100:])
        assert under_way.recv(1000).startswith(b"HTTP/1.1 200")


def test_a8_a_body_that_stops_is_answered_408_and_nothing_is_kept(
    settings: Settings, connect: Connect
) -> None:
    with serve(settings, protocol=Hasty) as client:
        before = scrape(client)
        for more in (b"", b"Idempotency-Key: a\r\n", b"Expect: 100-continue\r\n"):
            connection = connect(client)
            connection.sendall(
                HEAD + more + b"Content-Length: 100000\r\n\r\n" + b"--a\r\nContent-Disposition: x"
            )
            received = read_to_end(connection)
            assert b"HTTP/1.1 408 " in received
            assert b'"code": "body_too_slow"' in received
        slow = 'reid_connections_closed_total{reason="slow_body"}'
        assert scrape(client)[slow] == before[slow] + 3
        assert client.get("/gallery").json()["items"] == []


def test_a8_a_slow_body_that_goes_on_is_taken(settings: Settings, connect: Connect) -> None:
    with serve(settings, protocol=Hasty) as client:
        head, body = raw_search(client, crop(1) + bytes(20_000))
        connection = connect(client)
        connection.sendall(head)
        end_s = time.monotonic() + 3 * Hasty.body_s
        sent = 0
        while time.monotonic() < end_s and sent < len(body) - 60:
            sent += connection.send(body[sent : sent + 60])
            time.sleep(0.01)  # the pace is what is tested
        connection.sendall(body[sent:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def slowly(app: ASGIApp, reads_at_once: bool) -> ASGIApp:
    """Wait long before an app gets a POST, whose body is read before or after."""

    async def wait_first(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            first = await receive() if reads_at_once else None
            await anyio.sleep(3 * Hasty.body_s)

            async def receive_again() -> object:
                nonlocal first
                given, first = first, None
                return given or await receive()

            await app(scope, receive_again, send)  # type: ignore[arg-type]
        else:
            await app(scope, receive, send)

    return wait_first


@pytest.mark.parametrize("reads_at_once", [True, False])
def test_a8_a_client_is_not_blamed_for_a_service_that_is_slow(
    settings: Settings, reads_at_once: bool
) -> None:
    contents = [crop(seed) + bytes(200_000) for seed in range(10)]
    slow = partial(slowly, reads_at_once=reads_at_once)
    with serve(settings, wrap=slow, protocol=Hasty) as client:
        assert client.post("/gallery", files=images(*contents)).status_code == 201


def test_a6_the_head_of_a_next_request_ends_no_answer_to_the_one_before(
    settings: Settings, connect: Connect
) -> None:
    slow = partial(slowly, reads_at_once=True)
    with serve(settings, wrap=slow, protocol=Hasty) as client:
        head, body = raw_search(client, crop(1))
        connection = connect(client)
        connection.sendall(head + body + b"GET /livez HT")
        assert read_to_end(connection).startswith(b"HTTP/1.1 200")
