"""Swap the network under the Market-1501 gallery while eight clients search and enrol, and swap it back.

``python tests/benchmarks/hot_swap.py DATA_DIR [--second FILE]`` (PYTHONPATH: tests, tests/support).
`reid serve`
holds the 15,913 items of the standard gallery. Six of the eight clients search the standard queries and two
enrol people of their own, together at a quarter (`--load`) of the speed of the network alone. The server is
killed and started again when a third and when two thirds of the items are done. After the cut-over the swap
is rolled back at once and activated again, and rolled back once more after all queries.

`training/evaluate.py` evaluates both networks too, without the service. By default the second network is the
shipped one with the dimensions of its embedding reversed and weighted unequally. It is about as accurate as
the first, and an answer that mixes both has a score that neither network gives.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import httpx
import torch
from market1501_folder import Labelled as OnDisk
from market1501_folder import evaluate_offline, machine, percentile, read_folder, shorten
from PIL import Image
from reid_program import say
from rich.console import Console
from rich.table import Table

from live_server import TIMEOUT_S, upload_model, wait_for_job
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint, save_checkpoint
from model.data.market import DISTRACTOR_PID
from model.embedder import Embedder
from service.serving.stored import CROPS_AT_ONCE
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.upkeep.check import check
from swapped_server import Labelled, Load, Server, activate_under_kills, enroll_all, lost

NUM_TIMED = 400


def reverse(first: Path, second: Path) -> None:
    """Save the first network with the dimensions of its embedding reversed and weighted unequally."""
    checkpoint = load_checkpoint(first)
    network = checkpoint.network
    weights_D = torch.linspace(0.7, 1.3, network.embedding_size)
    tensors = network.state_dict()
    last = [
        f"pool.1.{name}" for name in ("weight", "bias")
    ]  # the layer before the neck that makes the embedding
    for name in [*last, *(name for name in tensors if name.startswith("neck.") and tensors[name].dim())]:
        tensors[name] = tensors[name].flip(0)
    for name in ("neck.weight", "neck.bias"):
        tensors[name] = tensors[name] * weights_D
    network.load_state_dict(tensors)
    save_checkpoint(second, network, replace(checkpoint.card, recipe="reversed"), half=True)


def read(crops: Sequence[OnDisk]) -> list[Labelled]:
    """Read crops into memory; distractors have no identity."""
    pids = ("" if crop.pid == DISTRACTOR_PID else crop.pid for crop in crops)
    return [Labelled(crop.path.read_bytes(), pid, crop.camera) for crop, pid in zip(crops, pids, strict=True)]


def own_speed(path: Path, crops: list[Labelled]) -> float:
    """Return crops a second of the network alone, in batches of the size that a backfill uses."""
    embedder = Embedder(load_checkpoint(path))
    started_s = 0.0
    for start in range(0, NUM_TIMED + CROPS_AT_ONCE, CROPS_AT_ONCE):
        some = [crops[(start + i) % len(crops)] for i in range(CROPS_AT_ONCE)]
        embedder.embed([Image.open(BytesIO(item.content)).convert("RGB") for item in some])
        started_s = started_s or time.perf_counter()  # the first batch warms the network up
    return NUM_TIMED / (time.perf_counter() - started_s)


def timed_rollback(client: httpx.Client) -> str:
    """Roll back, and return the time in words."""
    started_s = time.perf_counter()
    answer = client.post("/models/rollback").raise_for_status()
    job = wait_for_job(client, answer.headers["location"])
    seconds = time.perf_counter() - started_s
    if job["state"] != "succeeded":
        raise SystemExit(f"the rollback failed: {job}")
    return f"{seconds:.2f}"


def run(arguments: argparse.Namespace, folder: Path) -> Table:
    """Run the benchmark and return the table to print."""
    data: Path = arguments.data_dir
    some_queries, some_gallery = shorten(
        read_folder(data / "query"),
        read_folder(data / "bounding_box_test"),
        arguments.queries,
        arguments.items,
    )
    gallery = read(some_gallery)
    seen_by = defaultdict(set)
    for item in gallery:
        seen_by[item.pid].add(item.camera)
    queries = [query for query in read(some_queries) if seen_by[query.pid] - {query.camera}]
    second_path = arguments.second or folder / "second.safetensors"
    if arguments.second is None:
        reverse(DEFAULT_CHECKPOINT, second_path)
    speed = own_speed(second_path, gallery)
    say(f"the network alone embeds {speed:.1f} crops a second; enrolling {len(gallery)} crops")
    server = Server(folder, backfill_share=arguments.share)
    load = Load(server, queries, gallery, rate=speed * arguments.load)
    with httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as client:
        server.start(client)
        try:
            enroll_all(client, gallery)
            first = client.get("/models/active").json()["version"]
            second = upload_model(client, second_path).json()["version"]
            with load.running():
                say("before")
                load.phase("before")
                load.wait_for_all()
                say("during")
                load.phase("during")
                swap = activate_under_kills(server, client, second, [1 / 3, 2 / 3])
                say(f"activated: {swap.job['state']}, {swap.job['error']}; rolling back and forth")
                load.phase("swaps")
                at_once = timed_rollback(client)
                again = client.post(f"/models/{second}/activate", json={}).headers["location"]
                assert wait_for_job(client, again)["state"] == "succeeded"
                num_before = len(load.seen.enrolled)
                load.phase("after")
                load.wait_for_all()
                load.phase("back again")
                num_since, later = len(load.seen.enrolled) - num_before, timed_rollback(client)
                load.phase("back")
                load.wait_for_all()
            seen = load.seen
            amiss = lost(client, seen, len(gallery))
        finally:
            server.stop()
    settings = Settings(data_dir=folder / "data")
    engine = make_engine(settings.database_url)
    findings = check(Store(settings, make_sessions(engine))).findings
    engine.dispose()
    mixed = seen.mixed({first: "before", second: "after"})
    say("running training/evaluate.py for both networks")
    whole = arguments.queries is None and arguments.items is None
    offline = [
        f"{evaluate_offline(path, data)['rank1']:.2f}" if whole else "not run"
        for path in (DEFAULT_CHECKPOINT, second_path)
    ]
    p99 = {phase: percentile(seen.seconds(phase), 99) * 1000 for phase in ("before", "during", "after")}
    rate, allowed = swap.rate(), speed * arguments.share
    rows = [
        ("items, queries", f"{len(gallery)}, {len(queries)}"),
        ("searches; items enrolled meanwhile", f"{len(seen.answers)}; {len(seen.enrolled)}"),
        ("failed requests", f"{len(seen.failed)}"),
        (
            "requests cut off by the two kills, or sent before it was up, and sent again",
            f"{seen.num_cut_off}",
        ),
        ("answers mixing versions", f"{len(mixed)}"),
        ("items lost, or there twice", f"{len(amiss)}"),
        ("reid check finds", f"{len(findings)}"),
        ("rank-1 of the first network by evaluate.py", offline[0]),
        *((f"  {phase}", f"{100 * seen.rank1(phase, first):.2f}") for phase in ("before", "during", "back")),
        ("rank-1 of the second network by evaluate.py", offline[1]),
        ("  after", f"{100 * seen.rank1('after', second):.2f}"),
        ("p99 of searches before, during, after, ms", ", ".join(f"{ms:.0f}" for ms in p99.values())),
        ("  during / before", f"{p99['during'] / p99['before']:.2f}"),
        ("backfill, items a second", f"{rate:.1f}"),
        ("  of the network alone", f"{speed:.1f}"),
        (f"  share that it got of the {arguments.share:.0%} it may use", f"{100 * rate / allowed:.0f} %"),
        ("seconds that each cut-over held others back", ", ".join(f"{s:.3f}" for s in server.held_s())),
        ("seconds of a rollback at once", at_once),
        (f"seconds of a rollback after {num_since} more items", later),
    ]
    table = Table("measured", "", title=f"{datetime.now(UTC):%Y-%m-%d}, {machine()}")
    for row in rows:
        table.add_row(*row)
    for problem in [*seen.failed, *amiss, *map(str, mixed), *map(str, findings)][:10]:
        say(problem)
    return table


def main() -> None:
    """Read the arguments, run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data_dir", type=Path, help="the folder with bounding_box_test and query")
    parser.add_argument("--second", type=Path, help="another checkpoint to activate")
    parser.add_argument("--share", type=float, default=0.5, help="REID_BACKFILL_SHARE")
    parser.add_argument(
        "--load", type=float, default=0.25, help="rate of the clients, as a share of the network's speed"
    )
    parser.add_argument("--queries", type=int, help="number of queries, for a quick try")
    parser.add_argument("--items", type=int, help="number of items, for a quick try")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reid-benchmark-") as folder:
        Console(width=110).print(run(arguments, Path(folder)))


if __name__ == "__main__":
    main()
