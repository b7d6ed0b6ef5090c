"""Requests that are sent before the answers to those before them: few are taken, and none gives way."""

import contextlib
import re
import socket

import httpx

from live_server import crop, images, serve, wait_until
from raw_requests import is_closed
from scraped import scrape
from service.cli.connections import BoundedConnection
from service.settings import Settings

PROBE = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = PROBE.replace(b"Host", b"Connection: close\r\nHost")
BROKEN_BODY = b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n"
IN_LINE = 'reid_connections_closed_total{reason="in_line"}'


class TwoConnections(BoundedConnection):
    """A connection of a process that has two."""

    max_connections = 2


def connect(client: httpx.Client) -> socket.socket:
    """Open a connection to a service."""
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=60)


def read_statuses(connection: socket.socket) -> list[bytes]:
    """Return the statuses of all answers until the service closes a connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):  # of a service that has not read all
        while piece := connection.recv(65536):
            received += piece
    return re.findall(rb"HTTP/1.1 (\d+)", received)


def test_a_few_requests_in_line_are_answered(settings: Settings) -> None:
    with serve(settings) as client, connect(client) as connection:
        connection.sendall(PROBE * BoundedConnection.max_in_line + LAST)
        assert read_statuses(connection) == [b"200"] * (BoundedConnection.max_in_line + 1)


def test_many_requests_in_line_end_the_connection(settings: Settings) -> None:
    with serve(settings) as client, connect(client) as connection:
        before = scrape(client)
        with contextlib.suppress(ConnectionError):
            connection.sendall(PROBE * 4000 + LAST)
        statuses = read_statuses(connection)
        assert len(statuses) < 1000
        assert set(statuses) <= {b"200"}
        assert scrape(client)[IN_LINE] == before[IN_LINE] + 1


def test_what_is_no_http_is_refused_after_the_requests_before_it_or_not_at_all(settings: Settings) -> None:
    with serve(settings) as client:
        for sent, statuses in (
            (b"no HTTP\r\n\r\n", [b"400"]),
            (PROBE + b"no HTTP\r\n\r\n", [b"200"]),
            (PROBE * 3 + b"no HTTP\r\n\r\n", [b"200"] * 3),
            (BROKEN_BODY, [b"400"]),
            (PROBE + BROKEN_BODY, []),  # a refusal would count as the answer to the probe
        ):
            with connect(client) as connection:
                connection.sendall(sent)
                assert read_statuses(connection) == statuses


def test_a_request_that_has_waited_in_line_does_not_give_way(settings: Settings) -> None:
    with serve(settings, protocol=TwoConnections) as client, connect(client) as connection:
        request = client.build_request("POST", "/search", files=images(crop(1)))
        head = [f"{name}: {value}" for name, value in request.headers.items()]
        body = request.read()
        start = "\r\n".join(["POST /search HTTP/1.1", *head, "Connection: close", "", ""]).encode()
        connection.sendall(PROBE + start + body[:100])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")  # by now the search is under way
        with contextlib.ExitStack() as opened:
            idle = [opened.enter_context(connect(client)) for _ in range(4)]
            wait_until(lambda: sum(map(is_closed, idle)) >= 3)
            connection.sendall(body[100:])
            assert read_statuses(connection) == [b"200"]
