"""Compare search times while 8 clients enrol with search times without load: over HTTP, and in the index.

``python tests/benchmarks/search_under_load.py`` starts `reid serve` on a new gallery with the network that
ships and fills it. One client then searches without load, and again while 8 clients enrol as fast as they are
answered. Over HTTP, searches share the cores with the clients and with the embedding of enrolled crops. The
second measurement therefore uses only an index of 100,000 embeddings in this process, to which 8 threads add
100 items a second in all, so that only the index can delay a search.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
from reid_program import running_server

from live_server import crop, enroll, search
from service.index import Filter, GalleryIndex, Rows

NUM_CLIENTS, NUM_SEARCHES = 8, 400
NUM_ITEMS, SIZE = 100_000, 512
ADDS_A_SECOND = 100


@contextmanager
def meanwhile(work: Callable[[int], None]) -> Iterator[list[int]]:
    """Repeat a function in 8 threads during the body; yields the number of calls of each thread."""
    done, stop = [0] * NUM_CLIENTS, threading.Event()

    def run(number: int) -> None:
        while not stop.is_set():
            work(number * 1_000_000 + done[number])
            done[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(NUM_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def timed(do: Callable[[int], object]) -> list[float]:
    """Return the milliseconds of each of many searches."""
    times = []
    for number in range(NUM_SEARCHES):
        started_s = time.perf_counter()
        do(number)
        times.append(1000 * (time.perf_counter() - started_s))
    return times


def report(label: str, quiet: list[float], loaded: list[float], num_added: int, seconds: float) -> None:
    """Print p50 and p99 without and with load."""
    print(f"{label}, {NUM_SEARCHES} searches each, {os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}")
    for name, times in (("quiet", quiet), (f"with {num_added / seconds:.0f} items a second added", loaded)):
        p50, p99 = np.percentile(times, [50, 99])
        print(f"  {name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    ratio = np.percentile(loaded, 99) / np.percentile(quiet, 99)
    print(f"  p99 under load / p99 in the quiet: {ratio:.2f}")


def over_http() -> None:
    """Measure the whole service."""
    crops = [crop(seed) for seed in range(200)]
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder)) as (url, _),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        for start in range(0, 200, 50):
            enroll(client, *crops[start : start + 50])
        took_ms: list[float] = []

        def look(number: int) -> None:
            took_ms.append(search(client, crops[number % 200])["took_ms"])

        clients = [httpx.Client(base_url=url, timeout=60) for _ in range(NUM_CLIENTS)]
        timed(look)
        took_ms.clear()
        quiet = timed(look)
        quiet_took_ms = took_ms.copy()
        took_ms.clear()
        with meanwhile(lambda n: void(enroll(clients[n // 1_000_000], crops[n % 200]))) as done:
            started_s = time.perf_counter()
            loaded = timed(look)
            seconds, num_added = time.perf_counter() - started_s, sum(done)
        report("POST /search", quiet, loaded, num_added, seconds)
        bar_ms = 2 * np.percentile(quiet, 99) + min(quiet_took_ms)
        print(f"  twice the quiet p99 and the fastest search: {bar_ms:.2f} ms")
        report("POST /search, its took_ms", quiet_took_ms, took_ms, num_added, seconds)
        print(f"  the fastest search took {min(quiet_took_ms):.2f} ms, nearly all of it the embedding")


def in_the_index() -> None:
    """Measure the index alone."""
    rng = np.random.default_rng(0)
    embeddings_ND = rng.standard_normal((NUM_ITEMS, SIZE), np.float32) / np.float32(np.sqrt(SIZE))
    index = GalleryIndex(SIZE)
    adding, last = threading.Lock(), [0]

    def add(num: int) -> None:
        with adding:
            slots = range(last[0] + 1, last[0] + num + 1)
            last[0] += num
            index.add(
                Rows(
                    slots,
                    [slot // 10 for slot in slots],
                    ["door"] * num,
                    [None] * num,
                    [None] * num,
                    embeddings_ND[:num].astype(np.float16),
                )
            )

    add(NUM_ITEMS)

    def add_one(_number: int) -> None:
        add(1)
        time.sleep(NUM_CLIENTS / ADDS_A_SECOND)

    def look(number: int) -> None:
        index.search_groups(embeddings_ND[number], 10, 5, Filter())

    quiet = timed(look)
    with meanwhile(add_one) as done:
        started_s = time.perf_counter()
        loaded = timed(look)
        seconds, num_added = time.perf_counter() - started_s, sum(done)
    report(f"GalleryIndex, exact, {NUM_ITEMS:,} x {SIZE}, 10 identities", quiet, loaded, num_added, seconds)


def void(_: object) -> None:
    """Ignore a value."""


if __name__ == "__main__":
    in_the_index()
    over_http()
