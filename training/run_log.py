"""What a run writes down as it goes: its environment, a line of figures an epoch, TensorBoard events."""

import json
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
from training.datasets import ReidDataset

ENVIRONMENT_FILE, LOG_FILE, EVENTS_FOLDER = "environment.json", "metrics.jsonl", "tensorboard"
_ROOT = Path(__file__).parent.parent
_PACKAGES = ("reid-gallery", "torch", "torchvision", "openvino", "numpy", "pillow")
_SECRET_OPTION = re.compile(r"--?[\w-]*(?:key|token|password|secret)[\w-]*", re.IGNORECASE)


class RunLog:
    """The record of one run in its folder, whole after every epoch.

    A resumed run forgets what was written of the epochs that it trains again, a torn last line as well.

    Args:
        folder: the run's folder.
        epoch: the epochs that are done; 0 for a new run.
    """

    def __init__(self, folder: Path, *, epoch: int = 0) -> None:
        self._folder = folder
        kept = [line for line in read_log(folder) if line["epoch"] <= epoch]
        write_atomically(folder / LOG_FILE, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._events = SummaryWriter(str(folder / EVENTS_FOLDER), purge_step=epoch + 1)
        self._epoch = epoch

    def start(self, dataset: ReidDataset, *, seed: int) -> None:
        """Write environment.json; that of the starts before a resumption stays in it."""
        now = describe_environment(dataset, seed=seed) | {"epochs_done": self._epoch}
        path = self._folder / ENVIRONMENT_FILE
        if self._epoch and path.exists():
            before = json.loads(path.read_text())
            now["earlier_starts"] = [*before.pop("earlier_starts", []), before]
        write_atomically(path, json.dumps(now, indent=2).encode())

    def epoch(self, values: dict[str, float]) -> None:
        """Add the figures of one epoch, by name; ``epoch`` is its number, from 1."""
        with (self._folder / LOG_FILE).open("a") as log:
            log.write(json.dumps(values) + "\n")
        for name, value in values.items():
            if name != "epoch":
                self._events.add_scalar(name, value, int(values["epoch"]))
        self._events.flush()

    def close(self) -> None:
        """End the thread that writes the events."""
        self._events.close()


def read_log(folder: Path) -> list[dict[str, float]]:
    """Return the figures of each epoch of a run; a torn last line is passed over.

    Raises:
        ValueError: another line is torn, or no record of an epoch.
    """
    path = folder / LOG_FILE
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    log: list[dict[str, float]] = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            log.append(values | {"epoch": int(values["epoch"])})
        except (ValueError, TypeError, KeyError) as error:
            if number < len(lines):
                raise ValueError(
                    f"line {number} of {path} is no record of an epoch: {line[:80]!r}"
                ) from error
    return log


def describe_environment(dataset: ReidDataset, *, seed: int) -> dict[str, Any]:
    """Say what a run was made with: versions, machine, commit, command, data. No secrets, no variables."""
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
    """Return a command without the passwords in its URLs and the values of options that hold secrets.

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


def find_commit(root: Path) -> str | None:
    """Return the commit that is checked out in a folder, with ``-dirty`` where files differ, or none."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    command = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    return answer.stdout.strip() or None


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    match = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()
