"""How `reid serve` ends and goes on: what is under way, slow clients, and workers that die."""

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import httpx
import pytest

from command_line import MakeEnv, Server, read_until, reid_serve, reid_serve_by_workers
from live_server import TIMEOUT_S, crop, images, wait_until
from scraped import Series, scrape

DRAIN_S = 3
HEAD = (
    b"POST /gallery HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=a\r\n"
    b"Expect: 100-continue\r\nContent-Length: 100000\r\n\r\n"
)
READY = re.compile(r"worker (\d+) ready")
LIVEZ = 'reid_http_requests_total{method="GET",route="/livez",status="200"}'

Serve = Callable[[dict[str, str], Path], AbstractContextManager[Server]]


@pytest.fixture(params=[reid_serve, partial(reid_serve_by_workers, num_workers=2)], ids=["one", "workers"])
def ended(
    request: pytest.FixtureRequest, make_env: MakeEnv, tmp_path: Path
) -> Iterator[tuple[Server, socket.socket]]:
    """A server that was told to end while a client stopped in the midst of its body, and that client."""
    serve: Serve = request.param
    env = make_env(tmp_path / "data") | {"REID_DRAIN_S": str(DRAIN_S)}
    with serve(env, tmp_path / "log") as running, connect(running) as slow:
        slow.sendall(HEAD)
        assert slow.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"  # the request is under way
        slow.sendall(b"--a\r\n")
        running.process.send_signal(signal.SIGTERM)
        yield running, slow


def connect(server: Server) -> socket.socket:
    """Connect to a server."""
    host, _, port = server.address.partition(":")
    return socket.create_connection((host, int(port)), timeout=TIMEOUT_S)


def is_refused(server: Server) -> bool:
    """Return whether nobody listens on the port of a server."""
    try:
        connect(server).close()
    except ConnectionRefusedError:
        return True
    return False


def test_an_upload_that_stops_is_cut_off_after_the_port_is_closed(
    ended: tuple[Server, socket.socket],
) -> None:
    server, slow = ended
    wait_until(lambda: is_refused(server))
    slow.setblocking(False)
    with pytest.raises(BlockingIOError):
        slow.recv(1)  # the client still has its time
    told = read_until(server.log, "stopped")
    assert server.process.wait(TIMEOUT_S) == 0
    assert "Traceback" not in told


def test_a_worker_that_dies_is_told_and_replaced(make_env: MakeEnv, tmp_path: Path) -> None:
    with reid_serve_by_workers(make_env(tmp_path / "data"), tmp_path / "log", 2) as running:
        told = running.printed + read_until(running.log, "items in the gallery")
        workers = [int(number) for number in READY.findall(told)]
        for path in ["/livez"] * 20:  # a connection each: whichever worker takes it
            httpx.get(f"{running.url}{path}")
        with (
            httpx.Client(base_url=running.url, timeout=TIMEOUT_S) as one,
            httpx.Client(base_url=running.url) as other,
        ):
            assert scrape(one)[LIVEZ] == scrape(other)[LIVEZ] == 20
        os.kill(workers[0], signal.SIGKILL)
        told = read_until(running.log, "items in the gallery")
        assert f"a worker has died, another one takes its place pid={workers[0]}" in plain(told)
        assert int(READY.findall(told)[0]) not in workers
        answer = httpx.post(f"{running.url}/search", files=images(crop(1)), timeout=TIMEOUT_S)
        assert answer.status_code == 200
        answer = httpx.post(f"{running.url}/gallery", files=images(crop(1)), timeout=TIMEOUT_S)
        assert answer.status_code == 201
        with httpx.Client(base_url=running.url, timeout=TIMEOUT_S) as client:
            assert scrape(client)[LIVEZ] == 20
            wait_until(lambda: follows(scrape(client)))  # the dead worker has seen no item


def follows(found: Series) -> bool:
    """Return whether the worker that is furthest behind has seen the newest change."""
    return found['reid_replica_newest_change{index="active"}'] == found["reid_newest_change"]


def plain(told: str) -> str:
    """Return log lines without the spaces that align their values."""
    return re.sub(r" +", " ", told)


def test_no_request_meets_a_worker_that_is_not_ready(make_env: MakeEnv, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with reid_serve_by_workers(make_env(tmp_path / "data"), log, 2) as running:
        statuses = set()
        while len(READY.findall(log.read_text())) < 2:
            statuses.add(httpx.get(f"{running.url}/readyz", timeout=TIMEOUT_S).status_code)
        assert statuses <= {200}
