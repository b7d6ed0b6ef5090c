"""The logs of a run: its environment, the metrics of each epoch and step, TensorBoard events."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from model.files import write_atomically
from training.data.datasets import ReidDataset

ENVIRONMENT_FILE, LOG_FILE, STEPS_FILE = "environment.json", "metrics.jsonl", "steps.jsonl"
EVENTS_FOLDER = "tensorboard"
_ROOT = Path(__file__).parents[2]
_PACKAGES = ("reid-gallery", "torch", "torchvision", "openvino", "numpy", "pillow")
_SECRET_OPTION = re.compile(r"--?[\w-]*(?:key|token|password|secret)[\w-]*", re.IGNORECASE)


class RunLog:
    """Writes environment.json, metrics.jsonl, steps.jsonl and TensorBoard events to a run's folder.

    Epochs, and steps within an epoch, are counted from 1. Nothing is written before `start`. `epoch` and
    `step` keep their values in memory until `flush` writes them to disk. Call `flush` before each saving of
    the run's state, so that the logs never end before the state.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._waiting: dict[str, list[dict[str, float]]] = {LOG_FILE: [], STEPS_FILE: []}
        self._events: SummaryWriter | None = None

    def start(self, dataset: ReidDataset, *, seed: int, epoch: int = 0, step: int = 0) -> None:
        """Write the environment, and delete what the logs have after ``epoch`` epochs and ``step`` steps.

        A resumed run repeats the deleted epochs and steps. Incomplete lines are deleted too. The environments
        of earlier starts are kept under ``earlier_starts``.
        """
        for name in self._waiting:
            lines = _read_lines(self._folder / name)
            kept = [line for line in lines if _is_before(line, epoch, step)]
            write_atomically(self._folder / name, "".join(line + "\n" for line in kept).encode())
        environment = describe_environment(dataset, seed=seed) | {"resumed_after": [epoch, step]}
        path = self._folder / ENVIRONMENT_FILE
        if (epoch or step) and path.exists():
            before = json.loads(path.read_text())
            environment["earlier_starts"] = [*before.pop("earlier_starts", []), before]
        write_atomically(path, json.dumps(environment, indent=2).encode())
        self._events = SummaryWriter(str(self._folder / EVENTS_FOLDER), purge_step=epoch + 1)

    def epoch(self, values: dict[str, float]) -> None:
        """Add the values of an epoch by name; ``epoch`` is its number."""
        self._waiting[LOG_FILE].append(values)

    def step(self, values: dict[str, float]) -> None:
        """Add the values of a step by name; ``epoch`` and ``step`` are its numbers."""
        self._waiting[STEPS_FILE].append(values)

    def flush(self) -> None:
        """Write the added values to disk, so that they survive a crash of the process or the machine."""
        if self._events is None:
            raise ValueError("a log cannot be flushed before start()")
        for line in self._waiting[LOG_FILE]:
            for name, value in line.items():
                if name != "epoch":
                    self._events.add_scalar(name, value, int(line["epoch"]))
        self._events.flush()
        for name, lines in self._waiting.items():
            with (self._folder / name).open("a") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
            lines.clear()

    def close(self) -> None:
        """End the thread that writes TensorBoard events."""
        if self._events is not None:
            self._events.close()


def _is_before(line: str, epoch: int, step: int) -> bool:
    try:
        values = json.loads(line)
        place = values["epoch"], values.get("step", 0)
        return bool(place <= ((epoch + 1, step) if "step" in values else (epoch, 0)))
    except (ValueError, TypeError, KeyError, AttributeError):
        return False


def _read_lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def read_log(folder: str | Path) -> list[dict[str, float]]:
    """Return the values of each epoch of a run. An incomplete last line is ignored.

    Raises:
        ValueError: another line is incomplete, or is not the record of an epoch.
    """
    path = Path(folder) / LOG_FILE
    lines = _read_lines(path)
    log: list[dict[str, float]] = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            log.append(values | {"epoch": int(values["epoch"])})
        except (ValueError, TypeError, KeyError) as error:
            if number < len(lines):
                raise ValueError(
                    f"line {number} of {path} is not the record of an epoch: {line[:80]!r}"
                ) from error
    return log


def describe_environment(dataset: ReidDataset, *, seed: int) -> dict[str, Any]:
    """Return versions, machine, commit, command and data of a run; no secrets, no environment variables."""
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    counts = {
        split: {"images": len(samples), "identities": len({sample.pid for sample in samples})}
        for split in ("train", "query", "gallery")
        for samples in [dataset.split(split)]
    }
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": redact(sys.argv),
        "seed": seed,
        "dataset": {"name": dataset.name, **counts},
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "commit": find_commit(_ROOT),
        "system": platform.platform(),
        "cpu": {"name": _cpu_name(), "threads": torch.get_num_threads()},
        "cuda": {"version": torch.version.cuda, "devices": devices},
    }


def redact(command: Sequence[str]) -> list[str]:
    """Return a command with *** for passwords in URLs and for the values of secret options.

    >>> redact(["train", "--deploy", "https://anna:1234@host/", "--api-key", "5678", "--token=9"])
    ['train', '--deploy', 'https://***@host/', '--api-key', '***', '--token=***']
    """
    words = []
    is_secret = False
    for word in command:
        option, equals, _ = word.partition("=")
        has_secret_name = _SECRET_OPTION.fullmatch(option) is not None
        if is_secret:
            words.append("***")
        elif has_secret_name and equals:
            words.append(f"{option}=***")
        else:
            words.append(re.sub(r"://[^/@\s]*@", "://***@", word))
        is_secret = has_secret_name and not equals and not is_secret
    return words


def find_commit(root: str | Path) -> str | None:
    """Return the commit checked out in a folder, with ``-dirty`` if files differ; None without git."""
    git = shutil.which("git")
    if git is None or not (Path(root) / ".git").exists():
        return None
    command = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no word comes from a user
    return answer.stdout.strip() or None


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    match = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()
