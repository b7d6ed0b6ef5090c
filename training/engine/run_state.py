"""What a run needs to go on as if it had never stopped: one file, whole or absent."""

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
def writing(folder: str | Path) -> Iterator[None]:
    """Say in one line what keeps a run's folder from being written.

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
    """Replace the state of a run; the old one stays until the new one is whole."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load_state(path: str | Path) -> dict[str, Any]:
    """Read the state of a run onto the CPU.

    Raises:
        TrainingError: the file is no state of this version.
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
