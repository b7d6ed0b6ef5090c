"""H6: foreign networks are tried one at a time, with limits of memory, time and priority."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from onnx import helper

from foreign_networks import SIZE, make_card, save_onnx, save_small_onnx
from live_server import serve
from model.checkpoint import save_foreign
from model.errors import CheckpointError
from model.interop.foreign import import_foreign
from model.interop.graphs import openvino_core
from model.interop.trial import MAX_CPU_S, NICENESS, try_apart
from service.api.problems import service_problem
from service.errors import TrialsBusy
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.versions.registry import register
from service.versions.trials import turn

LARGE = [1, 1 << 13, 1 << 13]


def save_large(path: Path, num: int) -> Path:
    """Write a checkpoint of a few kilobytes that broadcasts numbers to `num` tensors of 256 MiB each."""
    constants: dict[str, Any] = {"shape": np.array(LARGE, np.int64)}
    small = helper.make_node("GlobalAveragePool", ["images"], ["pooled"])
    nodes = [small, helper.make_node("Flatten", ["pooled"], ["flat"])]
    last = "flat"
    for one in range(num):
        constants |= {f"scalar{one}": np.array([[[one + 1.0]]], np.float32)}
        nodes.append(helper.make_node("Expand", [f"scalar{one}", "shape"], [f"large{one}"]))
        nodes.append(helper.make_node("ReduceMean", [f"large{one}"], [f"mean{one}"], axes=[1, 2], keepdims=0))
        nodes.append(helper.make_node("Add", [last, f"mean{one}"], [f"sum{one}"]))
        last = f"sum{one}"
    nodes.append(helper.make_node("Identity", [last], ["out"]))
    onnx_path = save_onnx(path.with_suffix(".onnx"), nodes, constants=constants)
    openvino.save_model(openvino_core().read_model(onnx_path), path.with_suffix(".xml"))
    graph, weights = (path.with_suffix(suffix).read_bytes() for suffix in (".xml", ".bin"))
    save_foreign(path, graph, weights, make_card(embedding_size=3))
    return path


@pytest.mark.parametrize("num", [12, 4])
def test_h6_a_small_file_of_large_tensors_is_refused(tmp_path: Path, num: int) -> None:
    path = save_large(tmp_path / "large.safetensors", num)
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match=r"together are too large|MiB|does not run"):
        try_apart(path)


def test_h6_the_process_of_a_trial_is_limited(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    program = (
        "import os, resource, sys; from model.interop.trial import limit; limit(sys.argv[1]); "
        "print(os.nice(0), resource.getrlimit(resource.RLIMIT_CPU)[1]); bytearray(1_200 << 20)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(min(NICENESS + niceness(), 19)), str(MAX_CPU_S)]
    assert "MemoryError" in done.stderr


def niceness() -> int:
    done = subprocess.run(["nice"], capture_output=True, text=True, check=True)
    return int(done.stdout)


def num_trials(folder: Path) -> int:
    """Return how many processes try a network in a folder at the moment.

    The list of processes is not of one moment: one may have ended when the next is seen. So those that were
    seen are looked at again. A process that a trial has forked, and that runs nothing else yet, is no trial.
    """
    seen = [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if is_trial(path.parent, folder)]
    trials = {process.name for process in seen if is_trial(process, folder)}
    return sum(parent_of(Path("/proc") / name) not in trials for name in trials)


def is_trial(process: Path, folder: Path) -> bool:
    """Return whether a process tries a network in a folder."""
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"model.interop.trial" in words and str(folder).encode() in b" ".join(words)


def parent_of(process: Path) -> str:
    """Return the number of the parent of a process, or nothing if the process has ended."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return ""


def test_h6_uploads_at_once_are_tried_one_after_the_other(
    settings: Settings, tmp_path: Path, is_long: bool
) -> None:
    with serve(settings):
        pass
    engine = make_engine(settings.database_url)
    store = Store(settings, make_sessions(engine))
    sizes = {"height": 64, "width": 32, "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    import_foreign(save_small_onnx(tmp_path / "small.onnx"), tmp_path / "small.safetensors", **sizes)  # type: ignore[arg-type]
    content = (tmp_path / "small.safetensors").read_bytes()
    stop, most = threading.Event(), [0]

    def watch() -> None:
        while not stop.wait(0.01):
            most[0] = max(most[0], num_trials(settings.models_dir))

    watcher = threading.Thread(target=watch)
    watcher.start()
    num = 8 if is_long else 2
    with ThreadPoolExecutor(num) as threads:
        known = list(threads.map(lambda _: register(store, BytesIO(content)), range(num)))
    stop.set()
    watcher.join()
    assert sorted(is_new for _, is_new in known) == [False] * (num - 1) + [True]
    assert {one.row.card["embedding_size"] for one, _ in known} == {SIZE}
    assert most == [1]


def test_h6_who_waits_too_long_is_told_when_to_come_again(tmp_path: Path) -> None:
    with turn(tmp_path):
        started_s = time.monotonic()
        with pytest.raises(TrialsBusy), turn(tmp_path, max_wait_s=0.1):
            pass
        assert time.monotonic() - started_s < 5
    with turn(tmp_path, max_wait_s=0):
        pass
    answer = service_problem("a-request", TrialsBusy())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "15")


def test_h6_a_trial_outlives_the_service_with_its_turn(tmp_path: Path) -> None:
    with turn(tmp_path) as descriptor:
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor]
        )
    with pytest.raises(TrialsBusy), turn(tmp_path, max_wait_s=0.1):
        pass
    child.communicate(b"\n")
    with turn(tmp_path, max_wait_s=1):
        pass
