"""The saved state from which a run is resumed: one file, complete or absent."""

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from model.files import write_atomically
from training.engine.errors import TrainingError

FORMAT = 2


@contextmanager
def explain_write_errors(folder: str | Path) -> Iterator[None]:
    """Raise `TrainingError` with one line when a run's folder cannot be written.

    Raises:
        TrainingError: the disk is full, the folder is not writable, or the like.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise TrainingError(
            f"{folder} cannot be written ({reason}): make room there, or give another --output"
        ) from error


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Replace the saved state of a run; the old state stays until the new one is complete."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load_state(path: str | Path) -> dict[str, Any]:
    """Read the saved state of a run, with tensors on the CPU.

    Raises:
        TrainingError: the file is damaged, or another version has written it.
    """
    try:
        state: Any = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"{path} cannot be read ({type(error).__name__}): it is damaged; remove it to start again"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(f"{path} is not the state of a run of this version: give another --output")
    return state
