"""Measure suggestions among 20,000 identities: the cost of one request, and the searches beside six clients.

``python tests/benchmarks/suggestions.py [--items 100000]`` starts `reid serve` with the network that ships on
a gallery of random embeddings. It asks for suggestions without load, searches without load, and searches
again while six clients ask for suggestions. A client that is refused with 503 comes again after the seconds
of Retry-After.
"""

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
from reid_program import running_server
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from live_server import crop, enroll, search
from service.store.database import make_engine, make_sessions
from service.store.tables import Change, Embedding, Gallery, Identity, Item, Model

NUM_IDENTITIES, NUM_CLIENTS, NUM_SEARCHES = 19_990, 6, 300
FIRST_KEY, PAGE = 1_000, 5_000
NOISE = 0.43
"""The variance within an identity; 1 / (1 + NOISE) is the cosine of two of its items."""

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def fill(session: Session, num_items: int) -> None:
    """Add random items, a frame of two every second; two identities have a cosine of about 0.5."""
    rng = np.random.default_rng(0)
    version = session.scalars(select(Model.version).where(Model.state == "active")).one()
    size = len(session.scalars(select(Embedding.values)).one()) // 2
    centres = rng.standard_normal((NUM_IDENTITIES, size), np.float32)
    centres += rng.standard_normal(size, np.float32)
    first_slot = (session.scalar(select(Gallery.newest_change)) or 0) + 1
    keys = range(FIRST_KEY, FIRST_KEY + NUM_IDENTITIES)
    session.execute(
        insert(Identity), [{"key": key, "id": f"person {key}", "created_at": EPOCH} for key in keys]
    )
    for start in range(0, num_items, PAGE):
        numbers = range(start, min(start + PAGE, num_items))
        people = [number % NUM_IDENTITIES for number in numbers]
        embeddings_ND = centres[people]
        embeddings_ND += np.float32(NOISE**0.5) * rng.standard_normal((len(people), size), np.float32)
        embeddings_ND /= np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
        slots = [first_slot + number for number in numbers]
        session.execute(insert(Item), [item_values(*one) for one in zip(slots, numbers, people, strict=True)])
        changes = [{"sequence": slot, "kind": "added", "slot": slot, "at": EPOCH} for slot in slots]
        session.execute(insert(Change), changes)
        rows = zip(slots, embeddings_ND.astype("<f2"), strict=True)
        values = [{"slot": slot, "model_version": version, "values": row_D.tobytes()} for slot, row_D in rows]
        session.execute(insert(Embedding), values)
    session.execute(update(Gallery).values(newest_change=Gallery.newest_change + num_items))


def item_values(slot: int, number: int, person: int) -> dict[str, object]:
    """Return the columns of one item."""
    return {
        "slot": slot,
        "id": f"{number:032x}",
        "identity_key": FIRST_KEY + person,
        "camera_id": f"camera {number // 2 % 6}",
        "captured_at": EPOCH + timedelta(seconds=number // 2),
        "track_id": None,
        "created_at": EPOCH,
        "sha256": f"{number:064x}",
        "content_type": "image/jpeg",
        "width": 64,
        "height": 128,
    }


def cpu_s(pid: int) -> float:
    """Return the seconds of processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def asking(url: httpx.URL) -> Iterator[Counter[int]]:
    """Let six clients ask for suggestions during the body, and count the answers by status."""
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=300) as client:
            while not stop.is_set():
                answer = client.get("/identities/suggestions")
                statuses[answer.status_code] += 1
                stop.wait(float(answer.headers.get("retry-after", 0)))

    threads = [threading.Thread(target=ask) for _ in range(NUM_CLIENTS)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    try:
        yield statuses
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def timed_searches(client: httpx.Client) -> tuple[float, float]:
    """Return the p50 and the p99 of many searches, in milliseconds."""
    crops = [crop(seed) for seed in range(20)]
    times = []
    for number in range(NUM_SEARCHES):
        started_s = time.perf_counter()
        search(client, crops[number % len(crops)])
        times.append(1000 * (time.perf_counter() - started_s))
    p50, p99 = np.percentile(times, [50, 99])
    return float(p50), float(p99)


def measure(client: httpx.Client, pid: int) -> None:
    """Print what suggestions cost."""
    timed_searches(client)
    for path in ("/identities/suggestions", "/identities/suggestions?of=person%201000"):
        for _ in range(2):
            started_s, before_s = time.perf_counter(), cpu_s(pid)
            answer = client.get(path)
            took_s, used_s = time.perf_counter() - started_s, cpu_s(pid) - before_s
        print(f"  {path}: {took_s:.2f} s, {used_s:.2f} s of processor time, status {answer.status_code}")
    quiet = timed_searches(client)
    with asking(client.base_url) as statuses:
        started_s = time.perf_counter()
        loaded = timed_searches(client)
        seconds = time.perf_counter() - started_s
        num = statuses.copy()
    print(f"  searches in the quiet: p50 {quiet[0]:.1f} ms, p99 {quiet[1]:.1f} ms")
    print(f"  while {NUM_CLIENTS} clients ask: p50 {loaded[0]:.1f} ms, p99 {loaded[1]:.1f} ms")
    print(f"  p99 while they ask / p99 in the quiet: {loaded[1] / quiet[1]:.2f}")
    print(f"  answers to the clients in {seconds:.1f} s, by status: {dict(num)}")


def main() -> None:
    """Make the gallery and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        with running_server(workspace) as (url, _), httpx.Client(base_url=url) as client:
            enroll(client, crop(1))
        engine = make_engine(f"sqlite:///{workspace}/data/gallery.sqlite3")
        with make_sessions(engine).write.begin() as session:
            fill(session, chosen.items)
        engine.dispose()
        shutil.rmtree(workspace / "data/snapshots", ignore_errors=True)  # of the index, without these items
        print(
            f"{NUM_IDENTITIES:,} identities, {chosen.items:,} items, {os.cpu_count()} cores, "
            f"{datetime.now(UTC):%Y-%m-%d}"
        )
        with running_server(workspace) as (url, pid), httpx.Client(base_url=url, timeout=300) as client:
            num = search(client, crop(1))["num_searched"]
            assert num > chosen.items, f"the index has {num} items"
            measure(client, pid)


if __name__ == "__main__":
    main()
