"""Offer `reid serve` two and four times the searches that it can answer, and see what becomes of them.

``PYTHONPATH=tests:tests/support python tests/benchmarks/overload.py [--seconds 60] [--enrol]``. First, eight
clients search one after the other, which gives the quiet figures and the capacity. Then searches are sent at
a fixed rate, whether the ones before are answered or not. Meanwhile a probe asks /livez and /readyz ten times
a second. The generator shares the cores with the server. With `--enrol`, 60 clients also enrol 16 crops a
request, as fast as they are answered, beside the eight that search.
"""

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import uvloop
from market1501_folder import machine
from reid_program import RunningServer, running_server, say
from rich.console import Console
from rich.table import Table

from live_server import crop, enroll, images

NUM_CLIENTS, NUM_ENROLLING, CROPS_A_REQUEST = 8, 60, 16
PROBE_EVERY_S = 0.1
PATIENCE_S = 120.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Seen:
    """What became of the requests of one phase: seconds of each answer, by status."""

    label: str
    seconds: float = 0.0
    times_s: dict[int, list[float]] = field(default_factory=dict)
    probes_s: list[float] = field(default_factory=list)
    probe_statuses: Counter[int] = field(default_factory=Counter)
    rss_bytes: tuple[int, int] = (0, 0)

    def add(self, status: int, time_s: float) -> None:
        """Note an answer; status 0 is none within the patience of a client."""
        self.times_s.setdefault(status, []).append(time_s)

    @property
    def rate(self) -> float:
        """Answers with status 200 a second."""
        return len(self.times_s.get(200, [])) / self.seconds

    def p(self, percent: float) -> float:
        """Return a percentile of the times of answers with status 200, in milliseconds."""
        return float(np.percentile(self.times_s.get(200, [np.nan]), percent)) * 1000


class Connections:
    """Connections to the server that are free; a request without a free one opens one."""

    def __init__(self, url: str) -> None:
        self._url = httpx.URL(url)
        self._free: list[Connection] = []

    async def ask(self, request: bytes) -> int:
        """Send a request and return the status of its answer; 0 if none comes."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    return await self._ask(request, self._free.pop() if self._free else None)
                return await self._ask(request, None)  # the server had closed the connection that was free
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            return 0

    async def _ask(self, request: bytes, connection: Connection | None) -> int:
        reader, writer = connection or await asyncio.open_connection(self._url.host, self._url.port)
        try:
            writer.write(request)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        self._free.append((reader, writer))
        return int(head.split(maxsplit=2)[1])


def raw(client: httpx.Client, method: str, path: str, *contents: bytes) -> bytes:
    """Return a request as it is sent."""
    request = client.build_request(method, path, files=images(*contents) if contents else None)
    lines = [f"{method} {path} HTTP/1.1", *(f"{key}: {value}" for key, value in request.headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + request.read()


def rss_bytes(pid: int) -> int:
    """Return the memory that a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def probe(connections: Connections, probes: list[bytes], seen: Seen) -> None:
    """Ask for life and readiness until cancelled."""
    while True:
        for request in probes:
            started_s = time.perf_counter()
            seen.probe_statuses[await connections.ask(request)] += 1
            seen.probes_s.append(time.perf_counter() - started_s)
        await asyncio.sleep(PROBE_EVERY_S)


async def timed(connections: Connections, request: bytes, seen: Seen) -> None:
    """Send a request, and note its answer."""
    started_s = time.perf_counter()
    status = await connections.ask(request)
    seen.add(status, time.perf_counter() - started_s)


async def in_turn(connections: Connections, requests: list[bytes], seen: Seen, end_s: float) -> None:
    """Be one client."""
    number = 0
    while time.perf_counter() < end_s:
        await timed(connections, requests[number % len(requests)], seen)
        number += 1


async def at_a_rate(
    connections: Connections, requests: list[bytes], seen: Seen, rate: float, num: int
) -> None:
    """Send requests at a rate, whether the ones before are answered or not."""
    started_s = time.perf_counter()
    tasks = []
    for number in range(num):
        await asyncio.sleep(started_s + number / rate - time.perf_counter())
        tasks.append(asyncio.create_task(timed(connections, requests[number % len(requests)], seen)))
    await asyncio.gather(*tasks)


async def phases(server: RunningServer, seconds: float, enrolling: bool) -> list[Seen]:
    """Run all phases."""
    with httpx.Client(base_url=server.url) as client:
        searches = [raw(client, "POST", "/search", crop(seed)) for seed in range(50)]
        contents = [crop(seed) for seed in range(1000, 1000 + CROPS_A_REQUEST)]
        enrolment = raw(client, "POST", "/gallery?", *contents)
        probes = [raw(client, "GET", path) for path in ("/livez", "/readyz")]
    connections = Connections(server.url)
    done: list[Seen] = []

    async def run(label: str, rate: float = 0.0, num_enrolling: int = 0) -> Seen:
        seen, others = Seen(label), Seen("enrolments")
        say(label)
        before, started_s = rss_bytes(server.pid), time.perf_counter()
        end_s = started_s + seconds
        probing = asyncio.create_task(probe(Connections(server.url), probes, seen))
        if rate:
            work = [at_a_rate(connections, searches, seen, rate, int(rate * seconds))]
        else:
            work = [in_turn(connections, searches, seen, end_s) for _ in range(NUM_CLIENTS)]
        work += [in_turn(connections, [enrolment], others, end_s) for _ in range(num_enrolling)]
        await asyncio.gather(*work)
        probing.cancel()
        seen.seconds = time.perf_counter() - started_s
        seen.rss_bytes = before, rss_bytes(server.pid)
        done.append(seen)
        return seen

    await run("8 clients, to warm up")
    quiet = await run("8 clients")
    for times in (2, 4):
        await run(f"{times} times the capacity", rate=times * quiet.rate)
    if enrolling:
        await run("8 clients, and 60 that enrol", num_enrolling=NUM_ENROLLING)
    return done[1:]


def table_of(done: list[Seen]) -> Table:
    """Return the table to print."""
    quiet = done[0]
    title = f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, {quiet.seconds:.0f} s each"
    table = Table("measured", *(seen.label for seen in done), title=title)
    rows = {
        "answered 200, a second": lambda s: f"{s.rate:.1f} ({s.rate / quiet.rate:.2f})",
        "p50 of these, ms": lambda s: f"{s.p(50):.0f} ({s.p(50) / quiet.p(50):.2f})",
        "p99 of these, ms": lambda s: f"{s.p(99):.0f} ({s.p(99) / quiet.p(99):.2f})",
        "answers by status, 0 is none": lambda s: str({k: len(v) for k, v in sorted(s.times_s.items())}),
        "p99 of a refusal, ms": lambda s: f"{1000 * np.percentile(s.times_s.get(503, [0]), 99):.0f}",
        "p99 of probes, ms": lambda s: f"{1000 * np.percentile(s.probes_s, 99):.0f}",
        "probes by status": lambda s: str(dict(s.probe_statuses)),
        "memory before, after, MiB": lambda s: ", ".join(f"{b / 2**20:.0f}" for b in s.rss_bytes),
    }
    for name, show in rows.items():
        table.add_row(name, *map(show, done))
    return table


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--enrol", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as server:
        with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
            for start in range(0, 500, 50):
                enroll(client, *(crop(seed) for seed in range(start, start + 50)))
        done = uvloop.run(phases(server, chosen.seconds, chosen.enrol))
    Console(width=150).print(table_of(done))


if __name__ == "__main__":
    main()
