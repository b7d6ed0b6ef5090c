"""Time one crop and a batch of 16 with every runtime of this machine; measure the memory of a training step.

``make bench`` runs it. Times are medians over rounds in which all runtimes take turns. Ratios are relative to
the twin, the same network with full affinity matrices.
"""

import argparse
import copy
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from model.architectures import build_network
from model.card import Card
from model.checkpoint import DEFAULT_CHECKPOINT, Checkpoint, load_checkpoint
from model.embedder import Embedder
from model.interop.graphs import openvino_core
from model.preprocess import Pixels
from model.runtime import Floats, OpenVinoRuntime, TorchRuntime, cpu_has_bf16
from references import use_full_affinity

SIZES = {"rga_sc_resnet50": (256, 128), "rga_sc_mobilenet_v2": (192, 96), "rga_sc_osnet": (224, 112)}
BATCHES = {1: 15, 16: 5}
"""Crops in a batch, and rounds that are timed."""
Run = Callable[[Pixels], Floats]


def make_checkpoint(name: str) -> Checkpoint:
    """Return a network with random weights, because speed does not depend on weights."""
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

    def run_twin(pixels: Pixels) -> Floats:
        images = checkpoint.preprocess.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        with torch.inference_mode():
            embeddings: Floats = twin(images.contiguous()).numpy()
        return embeddings

    runs: dict[str, Run] = {"full affinity, torch fp32": run_twin}
    runs["OpenVINO fp32"] = OpenVinoRuntime(checkpoint, "fp32", None).run
    if cpu_has_bf16():
        runs["OpenVINO bf16"] = OpenVinoRuntime(checkpoint, "bf16", None).run
    runs["ours, torch fp32"] = TorchRuntime(checkpoint, "cpu", "fp32").run
    return runs


def time_runs(runs: dict[str, Run], pixels: Pixels, num_rounds: int) -> dict[str, float]:
    """Return the median milliseconds per crop of each runtime."""
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    for round_number in range(num_rounds + 1):
        for label, run in runs.items():
            started = time.perf_counter()
            run(pixels)
            if round_number:  # the first one warms up
                seconds[label].append(time.perf_counter() - started)
    return {label: 1000 * statistics.median(times) / len(pixels) for label, times in seconds.items()}


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
            pixels = rng.integers(0, 256, (batch, height, width, 3), np.uint8)
            columns.append(time_runs(runs, pixels, num_rounds))
        for label in runs:
            times = [f"{column[label]:.1f}" for column in columns]
            ratios = [f"{next(iter(column.values())) / column[label]:.1f}" for column in columns]
            table.add_row(f"{name} {height}x{width}", label, *times, *ratios)
        table.add_section()
    Console(width=120).print(table)


def print_rival(path: str) -> None:
    """Print the time of the shipped network beside that of another graph, with the same runtime.

    Alone, and from a crop of Market-1501's size to its embedding, each as its own users prepare it.
    """
    checkpoint = load_checkpoint(DEFAULT_CHECKPOINT)
    precision = "bf16" if cpu_has_bf16() else "fp32"
    options = {"INFERENCE_PRECISION_HINT": precision.replace("fp", "f"), "PERFORMANCE_HINT": "LATENCY"}
    rival = openvino_core().compile_model(path, "CPU", options).create_infer_request()
    _, _, height, width = rival.get_input_tensor().shape
    ours, embedder = OpenVinoRuntime(checkpoint, precision, None), Embedder(checkpoint, "cpu", precision)
    pixels = np.random.default_rng(0).integers(0, 256, (128, 64, 3), np.uint8)
    crop = Image.fromarray(pixels)

    def prepare() -> Floats:
        resized = np.asarray(crop.resize((width, height), Image.Resampling.BILINEAR))
        return np.ascontiguousarray(resized[None, :, :, ::-1].transpose(0, 3, 1, 2), np.float32)

    prepared, own = prepare(), checkpoint.preprocess.pixels([crop])
    name, shipped = path.rpartition("/")[2], f"shipped: {checkpoint.card.architecture}"
    table = Table("OpenVINO " + precision, name, shipped, "of the first")
    for label, runs in (
        ("network alone, ms", [lambda: rival.infer([prepared]), lambda: ours.run(own)]),
        ("crop to embedding, ms", [lambda: rival.infer([prepare()]), lambda: embedder.embed([crop])]),
    ):
        first, second = time_in_turns(runs)
        table.add_row(label, f"{first:.2f}", f"{second:.2f}", f"{second / first:.2f}")
    Console(width=120).print(table)


def time_in_turns(
    runs: Sequence[Callable[[], object]], num_rounds: int = 40, in_a_row: int = 10
) -> list[float]:
    """Return the median milliseconds of each; each runs several times in a row, as in a service."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(num_rounds):
        for run, times in zip(runs, seconds, strict=True):
            run()  # clears the caches of the other one's data
            for _ in range(in_a_row):
                started = time.perf_counter()
                run()
                times.append(time.perf_counter() - started)
    return [1000 * statistics.median(times) for times in seconds]


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
    """Run one training step and return the peak memory above the start, in MiB."""
    height, width = SIZES["rga_sc_resnet50"]
    network = build_network("rga_sc_resnet50", height=height, width=width, num_identities=751).train()
    if which == "twin":
        use_full_affinity(network)
    images = torch.randn(16, 3, height, width)
    before = read_memory("VmRSS")
    network(images).logits.sum().backward()
    return (read_memory("VmHWM") - before) // 1024


def read_memory(name: str) -> int:
    """Return a value in KiB from Linux's status of this process (getrusage also counts its parent)."""
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
