"""Compare the kinds of index by build time, bytes per item, search time with and without filters, and recall.

``python tests/benchmarks/index.py [NUM_ITEMS...]`` prints a table for 10k, 100k and 1M items. The items
are random clusters of 10 for each identity, with cosine 0.7 within an identity and 0 between identities. A
query is another crop of an identity, so its true 10 best items are meaningful. They come from exact search in
fp32; one thread of it is timed in the same rounds as the other kinds. Filters by camera let a random 1 % or
50 % of the items through. Of the best 10 items, 9.9 or 5 are then of other identities, which are the nearest
of random points: the hardest case. Bytes count everything that an index holds, without spare capacity.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from service.index import Filter, GalleryIndex, IndexKind, Rows
from service.index.filters import row_mask

SIZE = 512
NUM_QUERIES = 200
NOISE = 0.43
"""The variance within an identity; 1 / (1 + NOISE) is the cosine of two of its items."""

CHUNK = 20_000
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
KINDS: tuple[IndexKind, ...] = ("exact", "hnsw", "ivf", "auto")
ONE_PERCENT, HALF = (
    Filter(camera_ids=frozenset(["0"])),
    Filter(excluded_camera_ids=frozenset(str(c) for c in range(50))),
)
FILTERS = {"none": Filter(), "1 %": ONE_PERCENT, "50 %": HALF}
Halves = NDArray[np.float16]
Floats = NDArray[np.float32]


class Drawn:
    """The items of a gallery in fp16, as the gallery stores them, and queries."""

    def __init__(self, num: int) -> None:
        rng = np.random.default_rng(0)
        self.centres = rng.standard_normal((num // 10, SIZE), np.float32) / np.float32(np.sqrt(SIZE))
        self.identities = rng.permutation(num) // 10
        self.cameras = rng.integers(0, 100, num)
        self.items_ND = np.empty((num, SIZE), np.float16)
        for start in range(0, num, CHUNK):
            self.items_ND[start : start + CHUNK] = self.crops(self.identities[start : start + CHUNK], rng)
        self.queries_QD = self.crops(rng.integers(0, num // 10, NUM_QUERIES), rng)

    def crops(self, identities: NDArray[np.int64], rng: np.random.Generator) -> Floats:
        """Draw one crop of each of these identities."""
        noise_ND = rng.standard_normal((len(identities), SIZE), np.float32)
        drawn_ND = self.centres[identities] + np.float32(np.sqrt(NOISE / SIZE)) * noise_ND
        return np.asarray(drawn_ND / np.linalg.norm(drawn_ND, axis=1, keepdims=True), np.float32)

    def rows(self, start: int) -> Rows:
        """Return a page of items."""
        numbers = range(start, min(start + CHUNK, len(self.items_ND)))
        return Rows(
            [number + 1 for number in numbers],
            [int(self.identities[number]) for number in numbers],
            [str(self.cameras[number]) for number in numbers],
            [EPOCH + timedelta(seconds=number) for number in numbers],
            [f"track {self.identities[number]}" for number in numbers],
            self.items_ND[start : start + CHUNK],
        )


def build(kind: IndexKind, drawn: Drawn) -> tuple[GalleryIndex, float, float]:
    """Return an index, the seconds to add all items and build its ANN index, and its bytes per item."""
    started_s = time.perf_counter()
    index = GalleryIndex(SIZE, kind)
    for start in range(0, len(drawn.items_ND), CHUNK):
        index.add(drawn.rows(start))
    index.wait()
    seconds = time.perf_counter() - started_s
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        index.write(path)
        return index, seconds, path.stat().st_size / len(drawn.items_ND)


def truth(drawn: Drawn, only: Filter, index: GalleryIndex) -> list[set[int]]:
    """Return the slots of the best 10 items of each query, by exact search in fp32."""
    _, numbers, _ = index.matching(only)
    best: list[list[tuple[float, int]]] = [[] for _ in drawn.queries_QD]
    for start in range(0, len(numbers), CHUNK):
        chunk = numbers[start : start + CHUNK]
        scores_QN = drawn.queries_QD @ drawn.items_ND[chunk].astype(np.float32).T
        for query, scores_N in enumerate(scores_QN):
            top = np.argpartition(-scores_N, min(10, len(chunk) - 1))[:10]
            pairs = zip(scores_N[top].tolist(), (chunk[top] + 1).tolist(), strict=True)
            best[query] = sorted([*best[query], *pairs], reverse=True)[:10]
    return [{slot for _, slot in row} for row in best]


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    arguments = parser.parse_args()
    for num in arguments.sizes:
        print_table(num, arguments.kinds)


def print_table(num: int, kinds: list[IndexKind]) -> None:
    """Build every kind, then time their searches in turns, so that changes in load affect all alike."""
    drawn = Drawn(num)
    built = {kind: build(kind, drawn) for kind in kinds}
    flat = faiss.IndexFlatIP(SIZE)
    for start in range(0, num, CHUNK):
        flat.add(drawn.items_ND[start : start + CHUNK].astype(np.float32))
    faiss.omp_set_num_threads(1)
    some_index = built[kinds[0]][0]
    truths = {name: truth(drawn, only, some_index) for name, only in FILTERS.items()}
    searches: dict[tuple[str, str], Callable[[Floats], object]] = {
        ("exact fp32", "none"): lambda query_D: flat.search(query_D[None], 11)
    }
    found: dict[tuple[str, str], int] = {}
    for kind, (index, _, _) in built.items():
        for name, only in FILTERS.items():
            searches[kind, name] = searching(index, only)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in searches}
    for number, query_D in enumerate(drawn.queries_QD):
        for key, search in searches.items():
            started_s = time.perf_counter()
            hits = search(query_D)
            seconds[key].append(time.perf_counter() - started_s)
            if key[0] in built:
                slots = hits.slots[:10].tolist()  # type: ignore[attr-defined]
                found[key] = found.get(key, 0) + len(truths[key[1]][number] & set(slots))
    base = statistics.median(seconds["exact fp32", "none"])
    table = Table(
        "kind", "build s", "bytes", *(f"{name}: p50 / p99 ms, recall@10" for name in FILTERS), "x fp32"
    )
    table.add_row("exact fp32", "", str(4 * SIZE), timing(seconds["exact fp32", "none"]), "", "", "1.0")
    for kind, (_, build_s, num_bytes) in built.items():
        cells = [
            f"{timing(seconds[kind, name])}, {found[kind, name] / (10 * NUM_QUERIES):.3f}" for name in FILTERS
        ]
        ratio = base / statistics.median(seconds[kind, "none"])
        table.add_row(kind, f"{build_s:.1f}", f"{num_bytes:.0f}", *cells, f"{ratio:.1f}")
    title = f"{num:,} x {SIZE}, {os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}"
    console = Console(width=140)
    console.print(title)
    console.print(table)
    print_filters(some_index)
    for index, _, _ in built.values():
        index.close()


def searching(index: GalleryIndex, only: Filter) -> Callable[[Floats], object]:
    """Return a search for the best ten items."""
    return lambda query_D: index.search(query_D, 10, only)


def print_filters(index: GalleryIndex) -> None:
    """Print how long filters take to select rows."""
    columns, _, _ = index.matching(Filter())
    people = frozenset(range(0, len(columns.identities.values), 2))
    filters = {
        "one camera": ONE_PERCENT,
        "50 of 100 cameras out": HALF,
        "half of the identities": Filter(identity_keys=people),
        "cameras, identities, tracks, times together": Filter(
            camera_ids=frozenset(map(str, range(60))),
            excluded_track_ids=frozenset(f"track {number}" for number in range(5)),
            excluded_identity_keys=frozenset(range(5)),
            captured_after=EPOCH,
            captured_before=EPOCH + timedelta(days=9),
        ),
    }
    for name, only in filters.items():
        seconds = []
        for _ in range(20):
            started_s = time.perf_counter()
            row_mask(columns, only)
            seconds.append(time.perf_counter() - started_s)
        print(f"filter, {name}: {timing(seconds)} ms")


def timing(seconds: list[float]) -> str:
    """Return p50 / p99 in milliseconds."""
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return f"{p50:.2f} / {p99:.2f}"


if __name__ == "__main__":
    main()
