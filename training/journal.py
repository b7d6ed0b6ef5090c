"""The two logs of a run: steps.jsonl, a line a step, and metrics.jsonl, a line an epoch."""

import json
import os
from pathlib import Path
from typing import Any

from model.files import write_atomically

STEPS_FILE, EPOCHS_FILE = "steps.jsonl", "metrics.jsonl"


class Journal:
    """Appends to a run's logs. Epochs and steps are counted from 1; numbers are written to the last bit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[str, list[str]] = {STEPS_FILE: [], EPOCHS_FILE: []}

    def step(self, values: dict[str, Any]) -> None:
        """Note one step: its epoch, its number in it, and what was measured."""
        self._waiting[STEPS_FILE].append(json.dumps(values))

    def epoch(self, values: dict[str, Any]) -> None:
        """Note one epoch: its number and what was measured."""
        self._waiting[EPOCHS_FILE].append(json.dumps(values))

    def flush(self) -> None:
        """Write down what was noted, so that it outlives this process and this machine."""
        for name, lines in self._waiting.items():
            if lines:
                with (self._folder / name).open("a") as file:
                    file.write("\n".join(lines) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                lines.clear()

    def cut(self, epoch: int, step: int) -> None:
        """Forget what came after ``epoch`` whole epochs and ``step`` steps of the next, also torn lines."""
        for name in self._waiting:
            path = self._folder / name
            if path.exists():
                kept = [line for line in path.read_text().splitlines() if _is_before(line, epoch, step)]
                write_atomically(path, "".join(line + "\n" for line in kept).encode())


def _is_before(line: str, epoch: int, step: int) -> bool:
    try:
        values = json.loads(line)
        return (values["epoch"], values.get("step", 0)) <= (epoch + ("step" in values), step)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
