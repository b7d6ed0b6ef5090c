"""Time one crop, and a batch of 16, through every runtime on this machine; weigh a training step.

``make bench`` runs it. Every figure comes from one run, the rounds of all runtimes interleaved, the median of
each; the ratios are against the full-affinity twin.
"""

import argparse
import copy
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from model.architectures import build_network
from model.checkpoint import DEFAULT_CHECKPOINT, Card, Checkpoint, load_checkpoint
from model.runtime import Floats, OpenVinoRuntime, TorchRuntime, cpu_has_bf16, openvino_core
from references import use_full_affinity

SIZES = {"rga_sc_resnet50": (256, 128), "rga_sc_mobilenet_v2": (192, 96), "rga_sc_osnet": (256, 128)}
BATCHES = {1: 15, 16: 5}
"""Crops a batch, and how many rounds of it are timed."""
Run = Callable[[Floats], Floats]


def make_checkpoint(name: str) -> Checkpoint:
    """Return a network with random weights: speed does not depend on them."""
    torch.manual_seed(0)
    height, width = SIZES[name]
    network = build_network(name, height=height, width=width, num_identities=751).eval()
    card = Card(
        architecture=name,
        height=height,
        width=width,
        embedding_size=network.embedding_size,
        num_identities=751,
    )
    return Checkpoint(network, card, name)


def make_runs(name: str) -> dict[str, Run]:
    """Return the runtimes to compare, the full-affinity twin first."""
    checkpoint = make_checkpoint(name)
    twin = use_full_affinity(copy.deepcopy(checkpoint.network)).eval()

    def run_twin(images: Floats) -> Floats:
        with torch.inference_mode():
            embeddings: Floats = twin(torch.from_numpy(images)).numpy()
        return embeddings

    runs: dict[str, Run] = {"full affinity, torch fp32": run_twin}
    runs["OpenVINO fp32"] = OpenVinoRuntime(checkpoint, "fp32", None).run
    if cpu_has_bf16():
        runs["OpenVINO bf16"] = OpenVinoRuntime(checkpoint, "bf16", None).run
    runs["ours, torch fp32"] = TorchRuntime(checkpoint, "cpu", "fp32").run
    return runs


def time_runs(runs: dict[str, Run], images: Floats, num_rounds: int) -> dict[str, float]:
    """Return the median milliseconds a crop of each runtime."""
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    for round_number in range(num_rounds + 1):
        for label, run in runs.items():
            started = time.perf_counter()
            run(images)
            if round_number:  # the first one warms up
                seconds[label].append(time.perf_counter() - started)
    return {label: 1000 * statistics.median(times) / len(images) for label, times in seconds.items()}


def print_speed() -> None:
    """Print one table for both networks."""
    table = Table(
        "network", "runtime", *(f"ms/crop, batch {n}" for n in BATCHES), *(f"x, batch {n}" for n in BATCHES)
    )
    for name, (height, width) in SIZES.items():
        runs = make_runs(name)
        rng = np.random.default_rng(0)
        columns = []
        for batch, num_rounds in BATCHES.items():
            images = rng.standard_normal((batch, 3, height, width), dtype=np.float32)
            columns.append(time_runs(runs, images, num_rounds))
        for label in runs:
            times = [f"{column[label]:.1f}" for column in columns]
            ratios = [f"{next(iter(column.values())) / column[label]:.1f}" for column in columns]
            table.add_row(f"{name} {height}x{width}", label, *times, *ratios)
        table.add_section()
    Console(width=120).print(table)


def print_rival(path: str) -> None:
    """Print the time of one crop of the shipped network beside that of a graph that one could take."""
    checkpoint = load_checkpoint(DEFAULT_CHECKPOINT)
    precision = "bf16" if cpu_has_bf16() else "fp32"
    options = {"INFERENCE_PRECISION_HINT": precision.replace("fp", "f"), "PERFORMANCE_HINT": "LATENCY"}
    rival = openvino_core().compile_model(path, "CPU", options).create_infer_request()
    runs: dict[str, Run] = {
        path.rpartition("/")[2]: lambda images: np.array(rival.infer([images])[0]),
        f"shipped: {checkpoint.card.architecture}": OpenVinoRuntime(checkpoint, precision, None).run,
    }
    images = np.random.default_rng(0).standard_normal(rival.get_input_tensor().shape, np.float32)
    times = time_runs(runs, images, 400)
    table = Table("network", f"ms a crop, OpenVINO {precision}", "of the first")
    for label, time_ms in times.items():
        table.add_row(label, f"{time_ms:.2f}", f"{time_ms / next(iter(times.values())):.2f}")
    Console(width=120).print(table)


def print_memory() -> None:
    """Print the peak memory of one training step of rga_sc_resnet50 at batch 16, each in its own process."""
    table = Table("training step, rga_sc_resnet50 256x128, batch 16, fp32", "peak MiB above the start")
    for label, flag in (("full affinity", "twin"), ("ours", "ours")):
        answer = subprocess.run(
            [sys.executable, __file__, "--step", flag], capture_output=True, text=True, check=True
        )
        table.add_row(label, answer.stdout.strip())
    Console(width=120).print(table)


def weigh_step(which: str) -> int:
    """Run one training step and return by how many MiB the process grew at its peak."""
    height, width = SIZES["rga_sc_resnet50"]
    network = build_network("rga_sc_resnet50", height=height, width=width, num_identities=751).train()
    if which == "twin":
        use_full_affinity(network)
    images = torch.randn(16, 3, height, width)
    before = read_memory("VmRSS")
    network(images).logits.sum().backward()
    return (read_memory("VmHWM") - before) // 1024


def read_memory(name: str) -> int:
    """Return a figure in KiB of this process alone, as Linux knows it (getrusage also counts its parent)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def main() -> None:
    """Print both tables under a line that names the machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", metavar="FILE", help="time the shipped network beside this graph alone")
    parser.add_argument("--step", choices=["twin", "ours"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(weigh_step(arguments.step))
        return
    machine = f"{os.cpu_count()} cores, {platform.machine()}, bf16: {cpu_has_bf16()}"
    print(f"{datetime.now(UTC).date()}, {machine}, torch {torch.__version__}")
    if arguments.against:
        print_rival(arguments.against)
        return
    print_speed()
    print_memory()


if __name__ == "__main__":
    main()
