"""Compare time and memory of the evaluation with torchreid's Python code, at the sizes of real data sets.

``PYTHONPATH=.:tests:tests/support python tests/benchmarks/evaluation.py`` after ``make dev``.
The embeddings are random. Each measurement is made in a new process. A distance matrix is made before the
clock starts; distances of embeddings are computed while it runs. torchreid evaluates a share of MSMT17's
queries, and its time is scaled up.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from training.metrics.ranking import Ints, Metrics, evaluate_distmat, evaluate_embeddings, evaluate_rows
from training.metrics.reranking import rerank_embeddings, rerank_memory_bytes

SIZES = {"Market-1501": (3_368, 19_732, 751), "MSMT17": (11_659, 82_161, 3_060)}
"""Queries, gallery and identities."""
RUNS = {
    "torchreid, a matrix": ("Market-1501", "MSMT17"),
    "ours, a matrix": ("Market-1501",),
    "ours, embeddings": ("Market-1501", "MSMT17"),
    "ours, re-ranked": ("Market-1501", "MSMT17"),
}
SHARE = 10  # torchreid evaluates every tenth query of MSMT17
WIDTH = 512
Floats = NDArray[np.float32]


def make_people(size: str) -> tuple[Floats, Floats, list[Ints]]:
    """Return query and gallery embeddings in clusters by identity, and their labels."""
    num_queries, num_gallery, num_identities = SIZES[size]
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((num_identities, WIDTH), np.float32)

    def make(number: int) -> tuple[Floats, Ints, Ints]:
        pids = rng.integers(0, num_identities, number)
        rows = centres[pids]
        rows += 2.5 * rng.standard_normal(rows.shape, np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows, pids, rng.integers(0, 6, number)

    queries, q_pids, q_camids = make(num_queries)
    gallery, g_pids, g_camids = make(num_gallery)
    return queries, gallery, [q_pids, g_pids, q_camids, g_camids]


def load_torchreid() -> Any:
    """Return only torchreid's ranking module, because the package needs undeclared ones such as OpenCV."""
    package = importlib.util.find_spec("torchreid")
    if package is None or package.origin is None:
        raise SystemExit("evaluation: no torchreid; run make dev")
    path = Path(package.origin).parent / "reid" / "metrics" / "rank.py"
    spec = importlib.util.spec_from_file_location("torchreid_rank", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"evaluation: {path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the missing Cython version
        spec.loader.exec_module(module)
    return module


def run(what: str, size: str) -> tuple[float, float, float]:
    """Return seconds, peak memory above the start in MiB, and mAP of one kind of evaluation."""
    queries, gallery, labels = make_people(size)
    scale = 1
    if what == "torchreid, a matrix":
        rank = load_torchreid()
        scale = SHARE if size == "MSMT17" else 1
        queries = queries[::scale]
        labels[0], labels[2] = labels[0][::scale], labels[2][::scale]
    before = read_memory("VmRSS")
    distmat = -queries @ gallery.T if what.endswith("a matrix") else None
    if distmat is not None:
        distmat += 1  # in place: there is one matrix
    started = time.perf_counter()
    if what == "torchreid, a matrix":
        _, mean_ap = rank.evaluate_rank(distmat, *labels, max_rank=50, use_cython=False)
    else:
        mean_ap = evaluate(what, queries, gallery, labels, distmat).mAP
    seconds = scale * (time.perf_counter() - started)
    return seconds, (read_memory("VmHWM") - before) / 1024, mean_ap


def evaluate(
    what: str, queries: Floats, gallery: Floats, labels: list[Ints], distmat: Floats | None
) -> Metrics:
    """Return our metrics of a distance matrix or of embeddings."""
    if distmat is not None:
        return evaluate_distmat(distmat, *labels)
    if what == "ours, re-ranked":
        return evaluate_rows(rerank_embeddings(queries, gallery), *labels)
    return evaluate_embeddings(queries, gallery, *labels)


def read_memory(name: str) -> int:
    """Return a value in KiB from Linux's status of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def main() -> None:
    """Print one table under a line that names the machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(*run(*arguments.one))
        return
    print(f"{datetime.now(UTC).date()}, {os.cpu_count()} cores, numpy {np.__version__}")
    table = Table("size", "evaluation", "s", "peak MiB above the start", "torchreid's time / this", "mAP")
    for size, (num_queries, num_gallery, _) in SIZES.items():
        first = 0.0
        for what in (what for what, sizes in RUNS.items() if size in sizes):
            answer = subprocess.run(
                [sys.executable, __file__, "--one", what, size], stdout=subprocess.PIPE, text=True, check=True
            )
            seconds, mebibytes, mean_ap = (float(word) for word in answer.stdout.split()[-3:])
            first = first or seconds
            is_share = size == "MSMT17" and what.startswith("torchreid")
            label = f"{what} (1 query in {SHARE}, time scaled)" if is_share else what
            table.add_row(
                size, label, f"{seconds:.2f}", f"{mebibytes:,.0f}", f"{first / seconds:.0f}", f"{mean_ap:.4f}"
            )
        estimate = rerank_memory_bytes(num_queries, num_gallery, WIDTH) / 2**20
        table.add_row(size, "re-ranking's own estimate", "", f"{estimate:,.0f}", "", "")
        table.add_section()
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
