"""The trial of a network before it is kept: a few images are embedded and the embeddings are checked.

A foreign network is tried in another process, because a hostile graph can crash OpenVINO.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.card import FOREIGN
from model.checkpoint import load_checkpoint, read_card
from model.embedder import Embedder
from model.errors import CheckpointError, ModelError
from model.interop.graphs import reason

SAME = 1e-5
"""A fraction. The embeddings of two images count as the same if no number differs by more than this fraction
of the largest number."""

LONGEST_TRIAL_S = 120


def try_apart(path: str | Path) -> None:
    """Try the network of a checkpoint in another process, if the network is foreign.

    Other networks are not tried, because their layers are our own code.

    Args:
        path: the checkpoint.

    Raises:
        CheckpointError: the checkpoint cannot be loaded, the network fails ``try_out``, or the other process
            crashes or takes more than LONGEST_TRIAL_S seconds.
    """
    path = Path(path)
    if read_card(path).architecture != FOREIGN:
        return
    command = [sys.executable, "-m", "model.interop.trial", str(path)]
    try:
        done = subprocess.run(  # noqa: S603 - a command of ours and a path
            command, capture_output=True, text=True, timeout=LONGEST_TRIAL_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"the trial of {path.name} did not end within {LONGEST_TRIAL_S} s") from error
    if done.returncode:
        code = done.returncode
        end = f"by signal {-code}" if code < 0 else f"with exit status {code}"
        raise CheckpointError(done.stdout.strip() or f"{path.name} ended the process that tried it, {end}")


def try_out(embedder: Embedder) -> None:
    """Embed two images of noise, a black image and a white image, and check the embeddings.

    Raises:
        CheckpointError: the network does not run, an embedding does not have length 1 (an embedding of zeros
            or NaN has not), or all embeddings are the same.
    """
    rng = np.random.default_rng(0)
    images: dict[str, NDArray[Any]] = {
        "an image of noise": rng.integers(0, 256, (128, 64, 3)),
        "another image of noise": rng.integers(0, 256, (128, 64, 3)),
        "a black image": np.zeros((128, 64, 3)),
        "a white image": np.full((128, 64, 3), 255),
    }
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            rows = embedder.embed([Image.fromarray(image.astype(np.uint8)) for image in images.values()])
            lengths = np.linalg.norm(rows, axis=1)
    except RuntimeError as error:
        raise CheckpointError(f"the network does not run: {reason(error)}") from error
    for name, length in zip(images, lengths, strict=True):
        if not 0.99 < length < 1.01:
            raise CheckpointError(
                f"on trial, the embedding of {name} has length {length:.3g}, but must have length 1"
            )
    if np.ptp(rows, axis=0).max() <= SAME * np.abs(rows).max():
        raise CheckpointError("the network makes the same embedding of every image")


def main(path: str | Path) -> None:
    """Load and try a checkpoint. An error is printed, and the exit status is then 1."""
    try:
        try_out(Embedder(load_checkpoint(path)))
    except ModelError as error:
        print(error)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main(sys.argv[1])
