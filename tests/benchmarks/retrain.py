"""Fine-tune the network in service on half of some people, and search the other half before and after.

``python tests/benchmarks/retrain.py DATA_DIR`` (PYTHONPATH: tests, tests/support).
Market-1501's test identities are split at random into two halves. To simulate a site that the shipped
checkpoint does not know, each of the six cameras gets a fixed colour cast, blur and cut of its own. `reid
serve` holds the gallery of half B with the distractors. `train.py --recipe finetune --init active --deploy
--activate` trains on half A alone. The queries of half B are searched over HTTP before and after. The
interval is a paired bootstrap over identities.
"""

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from market1501_folder import Labelled as OnDisk
from market1501_folder import machine, read_folder
from PIL import Image, ImageFilter
from reid_program import say
from rich.console import Console
from rich.table import Table

from killed_server import ROOT
from live_server import TIMEOUT_S, encode, images
from model.data.market import DISTRACTOR_PID
from swapped_server import Labelled, Server, enroll_all

NUM_IN_FLIGHT = 2
NUM_RESAMPLES = 10_000
Verdicts = dict[str, list[tuple[float, float]]]
"""For each identity: of each query, whether the first valid match is right, and the AP."""


def simulate(content: bytes, camera: str) -> bytes:
    """Return a crop as a simulated camera takes it."""
    chance = random.Random(f"camera {camera}")
    image = Image.open(BytesIO(content)).convert("RGB")
    gains, offsets = ([chance.uniform(*span) for _ in range(3)] for span in ((0.6, 1.3), (-25.0, 25.0)))
    left, top, right, bottom = (chance.uniform(0.0, 0.14) for _ in range(4))
    blur = chance.uniform(0.3, 1.3)
    width, height = image.size
    box = (left * width, top * height, width * (1 - right), height * (1 - bottom))
    cut = image.resize(image.size, Image.Resampling.BILINEAR, box=box).filter(ImageFilter.GaussianBlur(blur))
    pixels_HWC = np.asarray(cut, np.float32) * np.array(gains, np.float32) + np.array(offsets, np.float32)
    return encode(Image.fromarray(pixels_HWC.clip(0, 255).astype(np.uint8)), quality=90)


def read(crops: Sequence[OnDisk]) -> list[Labelled]:
    """Read crops as the simulated cameras take them; distractors have no identity."""
    return [
        Labelled(
            simulate(crop.path.read_bytes(), crop.camera),
            "" if crop.pid == DISTRACTOR_PID else crop.pid,
            crop.camera,
        )
        for crop in crops
    ]


def write_half(folder: Path, crops: list[Labelled]) -> Path:
    """Write crops and a CSV manifest, and return the path of the manifest."""
    path = folder / "half-a.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "identity_id", "camera_id"])
        for number, crop in enumerate(crops):
            (folder / f"{number}.jpg").write_bytes(crop.content)
            rows.writerow([f"{number}.jpg", crop.pid, crop.camera])
    return path


def search_all(client: httpx.Client, queries: list[Labelled], gallery: list[Labelled]) -> Verdicts:
    """Search every query whose identity another camera saw, and score the answers."""
    seen_by: dict[str, list[str]] = defaultdict(list)
    for item in gallery:
        seen_by[item.pid].append(item.camera)

    def scored(query: Labelled) -> tuple[float, float]:
        fields = {"group_by": "item", "top_k": "200"}
        answer = client.post("/search", files=images(query.content), data=fields).raise_for_status().json()
        found = [(m["identity_id"], m["items"][0]["camera_id"]) for m in answer["matches"]]
        valid = [pid == query.pid for pid, camera in found if (pid, camera) != (query.pid, query.camera)]
        ranks = [rank for rank, is_hit in enumerate(valid, start=1) if is_hit]
        num = sum(camera != query.camera for camera in seen_by[query.pid])
        precision = sum(n / rank for n, rank in enumerate(ranks, start=1)) / num
        return float(valid[0]), precision

    asked = [query for query in queries if set(seen_by[query.pid]) - {query.camera}]
    verdicts: Verdicts = defaultdict(list)
    with ThreadPoolExecutor(NUM_IN_FLIGHT) as executor:
        for query, verdict in zip(asked, executor.map(scored, asked), strict=True):
            verdicts[query.pid].append(verdict)
    return verdicts


def rise(before: Verdicts, after: Verdicts, column: int) -> tuple[float, float, float, float, float]:
    """Return a mean before and after in percent, the difference, and its 95 % interval over identities."""
    pids = sorted(before)
    sums_P2 = np.array([[sum(v[column] for v in some[pid]) for some in (before, after)] for pid in pids])
    counts_P = np.array([len(before[pid]) for pid in pids])
    drawn_RP = np.random.default_rng(0).integers(0, len(pids), (NUM_RESAMPLES, len(pids)))
    gains_R = (sums_P2[:, 1] - sums_P2[:, 0])[drawn_RP].sum(axis=1) / counts_P[drawn_RP].sum(axis=1)
    first, second = 100 * sums_P2.sum(axis=0) / counts_P.sum()
    low, high = 100 * np.quantile(gains_R, [0.025, 0.975])
    return float(first), float(second), float(second - first), float(low), float(high)


def train(folder: Path, manifest: Path, url: str, recipe: str) -> float:
    """Run the documented command and return its seconds."""
    started_s = time.monotonic()
    command = [sys.executable, "training/train.py", "--recipe", recipe, "--data", f"csv:{manifest}"]
    command += ["--output", str(folder / "run"), "--init", "active", "--deploy", url, "--activate"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    return time.monotonic() - started_s


def run(data: Path, folder: Path, seed: int, recipe: str) -> Table:
    """Run the benchmark and return the table to print."""
    query_crops, gallery_crops = read_folder(data / "query"), read_folder(data / "bounding_box_test")
    pids = sorted({crop.pid for crop in query_crops})
    random.Random(seed).shuffle(pids)
    half_a = set(pids[: len(pids) // 2])
    learnt = read([crop for crop in query_crops + gallery_crops if crop.pid in half_a])
    gallery = read([crop for crop in gallery_crops if crop.pid not in half_a])
    queries = read([crop for crop in query_crops if crop.pid not in half_a])
    (folder / "half-a").mkdir()
    manifest = write_half(folder / "half-a", learnt)
    server = Server(folder, backfill_share=1.0)
    with httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as client:
        server.start(client)
        try:
            say(f"enrolling {len(gallery)} crops of half B and distractors")
            enroll_all(client, gallery)
            say(f"searching {len(queries)} queries of half B")
            before = search_all(client, queries, gallery)
            train_s = train(folder, manifest, server.url, recipe)
            say("searching them again")
            after = search_all(client, queries, gallery)
            versions = [model["version"] for model in client.get("/models").json()["models"]]
        finally:
            server.stop()
    table = Table("half B, live", "before", "after", "difference", "95 % interval")
    table.title = f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, seed {seed}"
    for name, column in (("rank-1", 0), ("mAP@200", 1)):
        first, second, gain, low, high = rise(before, after, column)
        table.add_row(name, f"{first:.2f}", f"{second:.2f}", f"{gain:+.2f}", f"{low:+.2f} to {high:+.2f}")
    table.caption = (
        f"{len(half_a)} identities with {len(learnt)} crops learnt from; {len(before)} others searched by "
        f"{sum(map(len, before.values()))} queries in {len(gallery)} items; "
        f"train.py to the end of the activation: {train_s:.0f} s; versions {', '.join(versions)}"
    )
    return table


def main() -> None:
    """Read the arguments, run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data_dir", type=Path, help="the folder with bounding_box_test and query")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument(
        "--recipe", default="finetune", help="name or recipe.json, for example with fewer epochs"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reid-benchmark-") as folder:
        table = run(arguments.data_dir.absolute(), Path(folder), arguments.seed, arguments.recipe)
        Console(width=110).print(table)


if __name__ == "__main__":
    main()
