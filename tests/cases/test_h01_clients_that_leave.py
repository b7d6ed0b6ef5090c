"""H1: the server stops working for a client that has closed its connection."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from hostile_pictures import jpeg_of_scans
from live_server import TIMEOUT_S, images, serve
from service.settings import Settings

MAX_IMAGES = {"/search": 16, "/gallery": 64}

Logs = list[Any]


@pytest.fixture
def logs() -> Iterator[Logs]:
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def client(settings: Settings, logs: Logs) -> Iterator[httpx.Client]:
    with serve(settings) as running:
        assert logs is not None
        yield running


def post_and_leave(client: httpx.Client, path: str) -> None:
    """Post slow pictures, and close the connection before the answer."""
    picture = jpeg_of_scans(2000, 2000, 100)
    request = client.build_request("POST", path, files=images(*[picture] * MAX_IMAGES[path]))
    body = request.read()
    head = f"POST {path} HTTP/1.1\r\n" + "".join(
        f"{key}: {value}\r\n" for key, value in request.headers.items()
    )
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        connection.sendall(head.encode() + b"\r\n" + body)


@pytest.mark.parametrize("path", ["/search", "/gallery"])
def test_work_for_a_client_that_left_is_dropped(client: httpx.Client, logs: Logs, path: str) -> None:
    post_and_leave(client, path)
    deadline_s = time.monotonic() + TIMEOUT_S
    while not (statuses := [one["status"] for one in list(logs) if one.get("path") == path]):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert statuses == [408]
    assert client.get("/gallery").json()["items"] == []
