"""Evaluate Market-1501 over HTTP: start the server, enrol the gallery, search the queries, score the answers.

    python tests/benchmarks/market1501_over_http.py DATA_DIR [--checkpoint FILE]

Everything is done as a user does it: `reid serve` with an empty data directory, `reid enroll` on
bounding_box_test, one crop in each POST /search. The metrics are computed from the answers alone, and printed
beside those of `training/evaluate.py`, which does not use the service.

The protocol: junk (identity -1) is not enrolled. Items of the query's identity from the query's camera are
dropped from the answer. Distractors (0000) count as wrong. A query whose identity no other camera saw is
skipped. An answer is cut after 100 valid items, so that

    AP@100 = (sum of the precision at every hit among the first 100) / (number of all relevant gallery images)

and mAP@100 is at most the mAP of the whole ranking; the ranks up to 100 are exact.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from market1501_folder import Labelled, evaluate_offline, machine, percentile, read_folder, shorten
from PIL import Image
from reid_program import ROOT, BenchmarkError, reid_command, running_server, say

from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.data.market import DISTRACTOR_PID
from model.embedder import Embedder

DEPTH = 100
NUM_ALONE = 300


@dataclass(frozen=True)
class Verdict:
    """The rank of the first hit (from 1; 0 if there is none), and AP@100."""

    first_hit: int
    average_precision: float


@dataclass(frozen=True)
class Pace:
    """Searches with a fixed number of requests in flight: their answers, in order, and their times."""

    concurrency: int
    answers: list[dict[str, Any]]
    latencies_ms: list[float]
    seconds: float

    def __str__(self) -> str:
        p50, p99 = (percentile(self.latencies_ms, percent) for percent in (50, 99))
        rate = len(self.answers) / self.seconds
        return f"{len(self.answers)} searches: {rate:.1f} a second, p50 {p50:.1f} ms, p99 {p99:.1f} ms"


@dataclass(frozen=True)
class Searches:
    """The scores of the answers, and the times of three kinds of search."""

    verdicts: list[Verdict]
    num_skipped: int
    deep: Pace
    usual: Pace
    alone: Pace


def score(answer: Sequence[tuple[str, str]], query: Labelled, num_relevant: int) -> Verdict:
    """Score one answer: (identity, camera) of each match, best match first.

    >>> query = Labelled(Path(), "7", "1")
    >>> score([("7", "1"), ("7", "2"), ("x", "2"), ("7", "3")], query, num_relevant=2)
    Verdict(first_hit=1, average_precision=0.8333333333333333)
    """
    valid = [found for found in answer if found != (query.pid, query.camera)][:DEPTH]
    hits = [rank for rank, (pid, _) in enumerate(valid, start=1) if pid == query.pid]
    precisions = [num_hits / rank for num_hits, rank in enumerate(hits, start=1)]
    return Verdict(hits[0] if hits else 0, sum(precisions) / num_relevant)


def enroll(url: str, folder: Path, concurrency: int) -> float:
    """Enrol a folder with `reid enroll`, and return the seconds."""
    started_s = time.monotonic()
    options = ["--url", url, "--layout", "market1501", "--concurrency", str(concurrency)]
    command = [*reid_command(), "enroll", str(folder), *options]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    return time.monotonic() - started_s


def link_folder(gallery: list[Labelled], folder: Path) -> Path:
    """Make a folder with links to the crops of a smaller gallery."""
    folder.mkdir()
    for crop in gallery:
        (folder / crop.path.name).symlink_to(crop.path.absolute())
    return folder


def search_all(url: str, queries: list[Labelled], gallery: list[Labelled], concurrency: int) -> Searches:
    """Search every query that has a match in another camera, several at a time, and score the answers."""
    num_seen = Counter((crop.pid, crop.camera) for crop in gallery)
    num_of_person = Counter(crop.pid for crop in gallery if crop.pid != DISTRACTOR_PID)
    relevant = {query: num_of_person[query.pid] - num_seen[query.pid, query.camera] for query in queries}
    judged = [query for query in queries if relevant[query]]
    if not judged:
        raise BenchmarkError("no query has a match on another camera")
    # Items of the query's own camera are dropped, so ask for that many more: at least DEPTH are left.
    top_k = DEPTH + max(num_seen[query.pid, query.camera] for query in judged)
    deep = {"top_k": str(top_k), "group_by": "item"}
    with httpx.Client(base_url=url, timeout=120.0) as http:
        paces = [
            search_at_pace(http, judged[:NUM_ALONE], {}, 1),
            search_at_pace(http, judged, {}, concurrency),
            search_at_pace(http, judged, deep, concurrency),
        ]
    for answer in paces[-1].answers:
        if answer["num_searched"] != len(gallery):
            raise BenchmarkError(f"{answer['num_searched']} items were searched, not {len(gallery)}")
    verdicts = [
        score(read_answer(answer), query, relevant[query])
        for query, answer in zip(judged, paces[-1].answers, strict=True)
    ]
    return Searches(verdicts, len(queries) - len(judged), alone=paces[0], usual=paces[1], deep=paces[2])


def search_at_pace(
    http: httpx.Client, queries: list[Labelled], fields: dict[str, str], concurrency: int
) -> Pace:
    """Search one crop in each request, with ``concurrency`` requests in flight."""

    def search(query: Labelled) -> tuple[dict[str, Any], float]:
        files = {"images": (query.path.name, query.path.read_bytes())}
        started_s = time.perf_counter()
        response = http.post("/search", files=files, data=fields)
        took_ms = 1000 * (time.perf_counter() - started_s)
        if not response.is_success:
            raise BenchmarkError(f"{query.path.name}: {response.status_code} {response.text[:300]}")
        return response.json(), took_ms

    started_s = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as executor:
        answers = list(executor.map(search, queries))
    seconds = time.perf_counter() - started_s
    return Pace(concurrency, [answer for answer, _ in answers], [took_ms for _, took_ms in answers], seconds)


def read_answer(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Return identity and camera of every match, best match first."""
    return [(match["identity_id"], match["items"][0]["camera_id"]) for match in answer["matches"]]


def embed_directly(checkpoint: Path, queries: list[Labelled]) -> tuple[float, str]:
    """Embed crops one by one without a service; return crops a second and the runtime."""
    embedder = Embedder(load_checkpoint(checkpoint))
    images = [Image.open(query.path).convert("RGB") for query in queries[:NUM_ALONE]]
    embedder.embed(images[:1])
    started_s = time.perf_counter()
    for image in images:
        embedder.embed([image])
    return len(images) / (time.perf_counter() - started_s), embedder.runtime


def accuracy_table(searches: Searches, offline: dict[str, float] | None) -> list[str]:
    """Return the metrics of the answers beside those of training/evaluate.py, as Markdown."""
    verdicts = searches.verdicts
    rows = [
        (f"rank-{k}", 100 * statistics.mean(0 < v.first_hit <= k for v in verdicts), f"rank{k}")
        for k in (1, 5, 10)
    ]
    rows.append(("mAP@100 (beside mAP)", 100 * statistics.mean(v.average_precision for v in verdicts), "mAP"))
    lines = ["| % | over HTTP | training/evaluate.py | difference |", "|---|---|---|---|"]
    for name, value, key in rows:
        theirs = (f"{offline[key]:.2f}", f"{value - offline[key]:+.2f}") if offline else ("not run", "")
        lines.append(f"| {name} | {value:.2f} | {theirs[0]} | {theirs[1]} |")
    return lines


def run(arguments: argparse.Namespace) -> list[str]:
    """Run the benchmark and return the lines to print."""
    data_dir, checkpoint, concurrency = arguments.data_dir, arguments.checkpoint, arguments.concurrency
    gallery_dir = data_dir / "bounding_box_test"
    is_whole = arguments.limit_queries is None and arguments.limit_gallery is None
    queries, gallery = shorten(
        read_folder(data_dir / "query"),
        read_folder(gallery_dir),
        arguments.limit_queries,
        arguments.limit_gallery,
    )
    workspace = Path(tempfile.mkdtemp(prefix="reid-benchmark-"))
    try:
        folder = gallery_dir if is_whole else link_folder(gallery, workspace / "gallery")
        with running_server(workspace, checkpoint) as (url, _):
            say(f"enrolling {len(gallery)} crops")
            enroll_s = enroll(url, folder, concurrency)
            say(f"searching {len(queries)} queries")
            searches = search_all(url, queries, gallery, concurrency)
    finally:
        shutil.rmtree(workspace)
    say("embedding without the service")
    direct_rate, runtime = embed_directly(checkpoint, queries)
    if is_whole:
        say("running training/evaluate.py")
    offline = evaluate_offline(checkpoint, data_dir) if is_whole else None
    ratio = len(searches.usual.answers) / searches.usual.seconds / direct_rate
    enrolled = f"{len(gallery)} crops in {enroll_s:.0f} s: {len(gallery) / enroll_s:.1f} a second"
    return [
        *accuracy_table(searches, offline),
        "",
        "| measured | |",
        "|---|---|",
        f"| `reid enroll`, {concurrency} requests in flight | {enrolled} |",
        f"| POST /search, one crop, top 10 people, one after another | {searches.alone} |",
        f"| the same, {concurrency} in flight | {searches.usual} |",
        f"| every item to rank {DEPTH}, {concurrency} in flight | {searches.deep} |",
        f"| the network alone, one crop at a time | {direct_rate:.1f} a second |",
        f"| searches, {concurrency} in flight, to the network alone | {ratio:.2f} |",
        f"| queries without a match on another camera | {searches.num_skipped} |",
        f"| checkpoint, runtime | {searches.deep.answers[0]['model_version']}, {runtime} |",
        f"| machine, date | {machine()}, {datetime.now(UTC):%Y-%m-%d} |",
    ]


def main() -> int:
    """Read the arguments, run the benchmark and print the result, or an error in one line."""
    parser = argparse.ArgumentParser(description="Market-1501 over HTTP, from the enrolment to mAP.")
    parser.add_argument("data_dir", type=Path, help="the folder with bounding_box_test and query")
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--concurrency", type=int, default=4, help="requests in flight")
    parser.add_argument("--limit-queries", type=int, help="for a quick try")
    parser.add_argument("--limit-gallery", type=int, help="for a quick try")
    arguments = parser.parse_args()
    arguments.checkpoint = arguments.checkpoint.absolute()
    arguments.data_dir = arguments.data_dir.absolute()
    try:
        print("\n".join(run(arguments)))
    except (BenchmarkError, httpx.HTTPError, subprocess.CalledProcessError) as error:
        say(f"failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
