"""A6, A8: clients that connect and send nothing, or stop in the midst of a request, hold nobody back."""

import socket
import time
from collections.abc import Callable, Iterator
from functools import partial

import anyio
import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from live_server import crop, images, serve, wait_until
from service.cli import connections
from service.settings import Settings

HEAD = b"POST /gallery HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=a\r\n"
Connect = Callable[[], socket.socket]


@pytest.fixture
def connect(shared_client: httpx.Client) -> Iterator[Connect]:
    """Open a connection to the service; all are closed at the end."""
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        address = (shared_client.base_url.host, shared_client.base_url.port or 80)
        opened.append(socket.create_connection(address, timeout=30))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def is_closed(connection: socket.socket) -> bool:
    """Return whether the service has closed a connection on which it owes no answer."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", HEAD + b"X: a", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nGET"]
)
def test_a6_a_head_that_does_not_end_is_waited_for_no_longer_than_a_time(
    connect: Connect, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 1.0)
    connection = connect()
    connection.sendall(sent)
    received = b""
    while data := connection.recv(10_000):  # raises after 30 s
        received += data
    assert received.startswith(b"HTTP/1.1 200") == sent.startswith(b"GET /livez")


def test_a6_idle_connections_give_way_to_further_ones(
    connect: Connect, shared_client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "max_connections", lambda: 8)
    opened = [connect() for _ in range(40)]
    for connection in opened[::2]:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
    assert httpx.get(f"{shared_client.base_url}/livez").status_code == 200
    wait_until(lambda: sum(map(is_closed, opened)) >= 32)
    assert httpx.get(f"{shared_client.base_url}/livez").status_code == 200


def test_a6_a_request_under_way_does_not_give_way(
    connect: Connect, shared_client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "max_connections", lambda: 2)
    request = shared_client.build_request("POST", "/search", files=images(crop(1)))
    body = request.read()
    head = [f"{name}: {value}" for name, value in request.headers.items()]
    under_way = connect()
    under_way.sendall("\r\n".join(["POST /search HTTP/1.1", *head, "", ""]).encode() + body[:100])
    answer = httpx.get(f"{shared_client.base_url}/livez")
    assert answer.status_code == 200  # by now the head of the other request has come
    idle = [connect() for _ in range(10)]
    wait_until(lambda: sum(map(is_closed, idle)) >= 9)
    under_way.sendall(body[100:])
    assert under_way.recv(1000).startswith(b"HTTP/1.1 200")


def test_a8_a_body_that_stops_is_answered_408_and_nothing_is_kept(
    connect: Connect, shared_client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_S", 0.3)
    before = shared_client.get("/gallery").json()
    for more in (b"", b"Idempotency-Key: a\r\n", b"Expect: 100-continue\r\n"):
        connection = connect()
        connection.sendall(HEAD + more + b"Content-Length: 100000\r\n\r\n" + b"--a\r\nContent-Disposition: x")
        received = b""
        while data := connection.recv(10_000):
            received += data
        assert b"HTTP/1.1 408 " in received
        assert b'"code": "body_too_slow"' in received
    assert shared_client.get("/gallery").json()["items"] == before["items"]


def test_a8_a_slow_body_that_goes_on_is_taken(
    connect: Connect, shared_client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_S", 1.0)
    monkeypatch.setattr(connections, "MIN_BODY_BYTES", 50)
    request = shared_client.build_request("POST", "/search", files=images(crop(1) + bytes(20_000)))
    body = request.read()
    head = [f"{name}: {value}" for name, value in request.headers.items()]
    connection = connect()
    connection.sendall("\r\n".join(["POST /search HTTP/1.1", *head, "", ""]).encode())
    end_s = time.monotonic() + 3 * connections.BODY_S
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
            await anyio.sleep(3 * connections.BODY_S)

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
    settings: Settings, reads_at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_S", 1.0)
    contents = [crop(seed) + bytes(200_000) for seed in range(10)]
    with serve(settings, wrap=partial(slowly, reads_at_once=reads_at_once)) as client:
        assert client.post("/gallery", files=images(*contents)).status_code == 201
