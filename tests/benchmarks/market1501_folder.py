"""Read the folders of Market-1501 for several benchmarks, and describe the machine."""

import json
import math
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from reid_program import ROOT, BenchmarkError

from model.data.market import JUNK_PID, parse_market1501_name


@dataclass(frozen=True)
class Labelled:
    """A crop of the data set, with the labels in its file name."""

    path: Path
    pid: str
    camera: str


def read_folder(folder: Path) -> list[Labelled]:
    """Read the crops of one folder of Market-1501, in order, without the junk."""
    parsed = [(path, parse_market1501_name(path.name)) for path in sorted(folder.glob("*.jpg"))]
    crops = [Labelled(path, *labels) for path, labels in parsed if labels and labels[0] != JUNK_PID]
    if not crops:
        raise BenchmarkError(f"{folder} has no Market-1501 crops")
    return crops


def shorten(
    queries: list[Labelled], gallery: list[Labelled], num_queries: int | None, num_gallery: int | None
) -> tuple[list[Labelled], list[Labelled]]:
    """Return the first queries, and a smaller gallery that starts with their identities."""
    queries = queries[:num_queries]
    pids = {query.pid for query in queries}
    return queries, sorted(gallery, key=lambda crop: crop.pid not in pids)[:num_gallery]


def evaluate_offline(checkpoint: Path, data_dir: Path) -> dict[str, float]:
    """Return the metrics of training/evaluate.py for a checkpoint, in percent."""
    options = ["--checkpoint", str(checkpoint), "--data", str(data_dir), "--json"]
    done = subprocess.run(
        [sys.executable, "training/evaluate.py", *options], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def percentile(values: list[float], percent: float) -> float:
    """Return the smallest value that `percent` of the values do not exceed.

    >>> percentile([3.0, 1.0, 2.0, 4.0], 50), percentile([3.0, 1.0, 2.0, 4.0], 99)
    (2.0, 4.0)
    """
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def machine() -> str:
    """Describe this machine in words."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()} {platform.machine()}"
