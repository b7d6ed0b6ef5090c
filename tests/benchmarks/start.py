"""Time the start of an index with and without its snapshot, and the check for changes before a search.

Usage: ``python tests/benchmarks/start.py [--items 100000] [--size 1280]``. The gallery is made of random
embeddings in a new database. The network is left out, because its loading does not depend on the gallery.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from service.serving.replica import Replica
from service.serving.serving import NEWEST
from service.serving.snapshots import Snapshots
from service.store.changes import newest_change
from service.store.database import Sessions, make_engine, make_sessions, migrate
from service.store.tables import Embedding, Gallery, Identity, Item, Model, now

VERSION = "0" * 12
PAGE = 5_000


def fill(session: Session, num_items: int, size: int) -> None:
    """Add items with random embeddings of unit length, ten to an identity."""
    rng = np.random.default_rng(0)
    session.execute(
        insert(Model),
        [{"version": VERSION, "filename": "x", "card": {}, "state": "active", "created_at": now()}],
    )
    for start in range(1, num_items + 1, PAGE):
        slots = range(start, min(start + PAGE, num_items + 1))
        embeddings_ND = rng.standard_normal((len(slots), size), np.float32)
        embeddings_ND /= np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
        keys = sorted({slot // 10 + 1 for slot in slots} - set(session.scalars(select(Identity.key))))
        session.execute(insert(Identity), [{"key": k, "id": f"p{k}", "created_at": now()} for k in keys])
        session.execute(insert(Item), [item_values(slot) for slot in slots])
        rows = zip(slots, embeddings_ND.astype("<f2"), strict=True)
        values = [{"slot": s, "model_version": VERSION, "values": e.tobytes()} for s, e in rows]
        session.execute(insert(Embedding), values)
    session.execute(update(Gallery).values(newest_change=num_items))


def item_values(slot: int) -> dict[str, object]:
    """Return the columns of one item."""
    return {
        "slot": slot,
        "id": f"{slot:032x}",
        "identity_key": slot // 10 + 1,
        "camera_id": f"camera-{slot % 6}",
        "captured_at": now(),
        "track_id": None,
        "created_at": now(),
        "sha256": f"{slot:064x}",
        "content_type": "image/jpeg",
        "width": 64,
        "height": 128,
    }


def ask(sessions: Sessions) -> None:
    """Check for changes, as every search does before it uses the index."""
    with sessions.read() as session:
        session.execute(NEWEST).one()


def median_s(run: Callable[[], None], num_rounds: int = 500) -> float:
    """Return the median seconds of a call."""
    seconds = []
    for _ in range(num_rounds):
        started_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started_s)
    return statistics.median(seconds)


def main() -> None:
    """Make the gallery, load it with and without a snapshot, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=1280)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(f"sqlite:///{folder}/gallery.sqlite3")
        migrate(engine)
        sessions = make_sessions(engine)
        with sessions.write.begin() as session:
            fill(session, chosen.items, chosen.size)
        snapshots = Snapshots(Path(folder) / "snapshots")
        with sessions.read() as session:
            seconds = {"from the database": time.perf_counter()}
            replica = Replica.load(session, VERSION, chosen.size)
            seconds["from the database"] = time.perf_counter() - seconds["from the database"]
            gallery_id = session.scalars(select(Gallery.id)).one()
            started_s = time.perf_counter()
            with snapshots.locked():
                snapshots.save(gallery_id, replica)
            seconds["writing a snapshot"] = time.perf_counter() - started_s
            started_s = time.perf_counter()
            loaded = snapshots.load(gallery_id, VERSION, newest_change(session), "exact")
            seconds["from a snapshot"] = time.perf_counter() - started_s
        asking_ms = 1000 * median_s(lambda: ask(sessions))
        assert loaded, "the snapshot is refused"
        assert len(loaded.index) == chosen.items, len(loaded.index)
        engine.dispose()
    table = Table(f"{chosen.items:,} items of {chosen.size}", "s", "of the first")
    for label, value in seconds.items():
        table.add_row(label, f"{value:.2f}", f"{value / seconds['from the database']:.3f}")
    Console(width=100).print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores")
    Console(width=100).print(table)
    Console(width=100).print(f"asking for the newest change before a search: {asking_ms:.2f} ms")


if __name__ == "__main__":
    main()
