"""Clients that search and enrol while the server swaps its network and is killed during the swap.

The clients send requests at one rate before, during and after the swap. A request that a kill interrupted
is repeated with the same Idempotency-Key. The answers show whether a request failed, an answer mixed two
versions, an item is lost, or the ranks are not those of the version that an answer names.
"""

import itertools
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, NamedTuple
from uuid import uuid4

import httpx

from forked import Fork
from killed_server import wait_for
from live_server import TIMEOUT_S, crop, find_free_port, images
from service.cli.main import app
from service.jobs.jobs import LEASE

NUM_CLIENTS, NUM_ENROLLING = 8, 2
ENROLLED_CAMERA = "load"
CLAIM_S = LEASE.total_seconds() + 5
"""Seconds after a kill in which a repeated request may answer that its first try is still in progress."""

SAME_SCORE = 0.02
"""Largest difference of a query's best score from that of the same version without load."""


class Labelled(NamedTuple):
    """A crop with its identity and camera."""

    content: bytes
    pid: str
    camera: str


@dataclass(frozen=True)
class Answer:
    """The answer of a search; `seconds` is None if a kill interrupted the search."""

    phase: str
    query: int
    version: str
    best_score: float
    is_hit: bool
    seconds: float | None


@dataclass
class Seen:
    """The answers that the clients got. A request that a kill interrupted is sent again."""

    answers: list[Answer] = field(default_factory=list)
    enrolled: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    num_cut_off: int = 0
    lock: Lock = field(default_factory=Lock)

    def rank1(self, phase: str, version: str) -> float:
        """Return the share of a phase's queries whose first valid match is the same person."""
        first = {a.query: a.is_hit for a in self._of(phase, version)}
        return sum(first.values()) / max(len(first), 1)

    def seconds(self, phase: str) -> list[float]:
        """Return how long the searches of a phase took."""
        return [a.seconds for a in self.answers if a.phase == phase and a.seconds is not None]

    def mixed(self, quiet: dict[str, str]) -> list[Answer]:
        """Return the answers whose best score differs from that of the same version in its quiet phase."""
        own = {(a.version, a.query): a.best_score for v, phase in quiet.items() for a in self._of(phase, v)}
        return [
            a
            for a in self.answers
            if abs(own.get((a.version, a.query), a.best_score) - a.best_score) > SAME_SCORE
            or a.version not in quiet
        ]

    def _of(self, phase: str, version: str) -> Iterable[Answer]:
        return reversed([a for a in self.answers if (a.phase, a.version) == (phase, version)])


class Server:
    """`reid serve` in a new process, which can be killed and started again on its gallery and port."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        chosen = {"data_dir": folder / "data", **settings}
        self._environment = {f"REID_{name.upper()}": str(value) for name, value in chosen.items()}
        self.is_down = Event()
        self.is_down.set()

    def change(self, **settings: object) -> None:
        """Change settings for the server's next lives."""
        self._environment |= {f"REID_{name.upper()}": str(value) for name, value in settings.items()}

    def start(self, client: httpx.Client) -> None:
        """Start it and wait until it is ready."""
        self._process = Fork(run_reid_serve, self.port, self.log, environment=self._environment)
        wait_for(client, self._process)
        self.is_down.clear()

    def kill(self) -> None:
        """Kill it."""
        self.is_down.set()
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        self.is_down.set()
        self._process.send_signal(signal.SIGINT)
        self._process.wait(TIMEOUT_S)

    def held_s(self) -> list[float]:
        """Return the seconds for which each cut-over blocked requests, from the log."""
        return [float(found) for found in re.findall(r"held_s\W+([\d.]+)", self.log.read_text())]


def run_reid_serve(port: int, log: Path) -> None:
    """Run `reid serve` in this process and append its output to a file."""
    with log.open("ab") as file:
        for output in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), output.fileno())
    app(["serve", "--port", str(port)])


class Load:
    """Clients at a fixed rate: some enrol people of their own, the others search the queries."""

    def __init__(self, server: Server, queries: list[Labelled], gallery: list[Labelled], rate: float) -> None:
        self.seen = Seen()
        self._server = server
        self._queries = queries
        self._cameras = sorted({item.camera for item in gallery})
        self._same = Counter((item.pid, item.camera) for item in gallery)
        self._period_s = NUM_CLIENTS / rate
        self._numbers, self._seeds = itertools.count(), itertools.count(1_000_000)
        self._phase = ""
        self._is_over = Event()
        self._threads = [Thread(target=self._work, args=(number,)) for number in range(NUM_CLIENTS)]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the clients during the body of the ``with`` statement."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in self._threads:
                thread.join()

    def phase(self, name: str) -> None:
        """Start a phase with a name."""
        self._phase = name
        self._numbers = itertools.count()

    def wait_for_all(self) -> None:
        """Wait until every query was searched in this phase."""
        while len({a.query for a in self.seen.answers if a.phase == self._phase}) < len(self._queries):
            assert not self.seen.failed, self.seen.failed[:3]
            assert all(thread.is_alive() for thread in self._threads)
            time.sleep(0.2)

    def _work(self, number: int) -> None:
        act = self._enroll if number < NUM_ENROLLING else self._search
        due_s = time.monotonic() + number * self._period_s / NUM_CLIENTS
        with httpx.Client(base_url=self._server.url, timeout=TIMEOUT_S) as client:
            while not self._is_over.wait(max(0.0, due_s - time.monotonic())):
                act(client)
                due_s = max(due_s + self._period_s, time.monotonic() - self._period_s)

    def _enroll(self, client: httpx.Client) -> None:
        seed = next(self._seeds)
        fields = {"identity_id": f"new-{seed}", "camera_id": ENROLLED_CAMERA}
        answer, _ = self._send(client, "/gallery", crop(seed), fields)
        if answer is not None:
            self.seen.enrolled += [item["id"] for item in answer["items"]]

    def _search(self, client: httpx.Client) -> None:
        phase, number = self._phase, next(self._numbers) % len(self._queries)
        query = self._queries[number]
        own = query.pid, query.camera
        fields = {"group_by": "item", "top_k": str(self._same[own] + 1), "camera_id": self._cameras}
        answer, seconds = self._send(client, "/search", query.content, fields)
        if answer is None:
            return
        found = [(m["identity_id"], m["items"][0]["camera_id"]) for m in answer["matches"]]
        first = next((pid for pid, camera in found if (pid, camera) != own), None)
        best = answer["matches"][0]["score"]
        seen = Answer(phase, number, answer["model_version"], best, first == query.pid, seconds)
        self.seen.answers.append(seen)

    def _send(
        self, client: httpx.Client, path: str, content: bytes, fields: dict[str, Any]
    ) -> tuple[dict[str, Any] | None, float | None]:
        """Send a request, again if a kill cut it off; return the answer and how long it took.

        The killed server's claim to a key holds for some seconds, and it is told so until then.
        """
        headers = {"Idempotency-Key": uuid4().hex} if path == "/gallery" else {}
        cut_off_s = float("-inf")
        while True:
            was_up, started_s = not self._server.is_down.is_set(), time.perf_counter()
            try:
                answer = client.post(path, files=images(content), data=fields, headers=headers)
                trouble = None if answer.is_success else f"{answer.status_code} {answer.text[:300]}"
            except httpx.TransportError as error:
                trouble = repr(error)
            seconds, is_up = time.perf_counter() - started_s, not self._server.is_down.is_set()
            if trouble is None:
                return answer.json(), seconds if was_up and is_up else None
            is_recent = time.monotonic() - cut_off_s < CLAIM_S
            is_claimed = is_recent and was_up and is_up and "idempotency_in_progress" in trouble
            with self.seen.lock:
                if was_up and is_up and not is_claimed:
                    self.seen.failed.append(f"{path}: {trouble}")
                    return None, None
                self.seen.num_cut_off += not is_claimed
            if not is_claimed:
                cut_off_s = time.monotonic()
            if self._is_over.wait(0.1):
                return None, None


@dataclass
class Backfilled:
    """The progress of an activation: (seconds, items done), in one list for each start of the server."""

    lives: list[list[tuple[float, int]]]
    job: dict[str, Any]

    def rate(self) -> float:
        """Return items a second, from the first to the last progress after each start."""
        spans = [[point for point in life if point[1] > life[0][1]] for life in self.lives if life]
        spans = [span for span in spans if len(span) > 1]
        num = sum(span[-1][1] - span[0][1] for span in spans)
        seconds = sum(next(s for s, n in span if n == span[-1][1]) - span[0][0] for span in spans)
        return num / seconds if seconds else 0.0


def activate_under_kills(
    server: Server,
    client: httpx.Client,
    version: str,
    kill_at: Iterable[float],
    on_killed: Callable[[int], None] | None = None,
) -> Backfilled:
    """Activate a version and see it through; kill the server when such shares of the items are done.

    After each kill `on_killed` is told how many are still to come, before the next life begins.
    """
    location = client.post(f"/models/{version}/activate", json={}).raise_for_status().headers["location"]
    wanted = sorted(kill_at)
    lives: list[list[tuple[float, int]]] = [[]]
    while True:
        job = client.get(location).raise_for_status().json()
        lives[-1].append((time.perf_counter(), job["done"]))
        if job["state"] not in ("queued", "running"):
            assert not wanted, f"it was over before the kills at {wanted}: {job}"
            return Backfilled(lives, job)
        if wanted and job["total"] and job["done"] >= wanted[0] * job["total"]:
            wanted.pop(0)
            server.kill()
            if on_killed is not None:
                on_killed(len(wanted))
            server.start(client)
            lives.append([])
        time.sleep(0.1)


def enroll_all(client: httpx.Client, gallery: list[Labelled]) -> None:
    """Enrol the gallery, a request for each person and camera, at most 64 crops each."""
    key = lambda item: (item.pid, item.camera)  # noqa: E731
    for (pid, camera), group in itertools.groupby(sorted(gallery, key=key), key):
        contents = [item.content for item in group]
        for start in range(0, len(contents), 64):
            files = images(*contents[start : start + 64])
            fields = {"identity_id": pid, "camera_id": camera, "on_duplicate": "store"}
            client.post("/gallery", files=files, data=fields).raise_for_status()


def lost(client: httpx.Client, seen: Seen, num_gallery: int) -> list[str]:
    """Return acknowledged items that are lost, and items that are there twice, in words."""
    listed = Counter(item["camera_id"] for item in list_all(client))
    ids = {item["id"] for item in list_all(client, camera_id=ENROLLED_CAMERA)}
    problems = [f"{item_id} was acknowledged and is not there" for item_id in set(seen.enrolled) - ids]
    num = sum(listed.values()) - listed[ENROLLED_CAMERA]
    if num != num_gallery:
        problems.append(f"{num} of {num_gallery} items of the gallery are there")
    if len(ids) > len(seen.enrolled):
        problems.append(f"{len(ids)} items are there of {len(seen.enrolled)} that were acknowledged")
    return problems


def list_all(client: httpx.Client, **fields: str) -> Iterator[dict[str, Any]]:
    """List items, page by page."""
    cursor: str | None = ""
    while cursor is not None:
        page = {**fields, "limit": "1000"} | ({"cursor": cursor} if cursor else {})
        answer = client.get("/gallery", params=page).raise_for_status().json()
        yield from answer["items"]
        cursor = answer.get("next_cursor")
