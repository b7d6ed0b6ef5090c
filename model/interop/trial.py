"""A network is tried before it is kept: here, or in a process of its own, which it may end."""

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
"""Embeddings of different images differ by more than this part of their largest number."""

LONGEST_TRIAL_S = 120


def try_apart(path: str | Path) -> None:
    """Try a foreign network in another process: a graph can be made so that OpenVINO dies of it.

    Networks of ours are built of our own code, and are not tried here.

    Raises:
        CheckpointError: as ``load_checkpoint`` and ``try_out``, or the process has died or takes too long.
    """
    path = Path(path)
    if read_card(path).architecture != FOREIGN:
        return
    command = [sys.executable, "-m", "model.interop.trial", str(path)]
    try:
        done = subprocess.run(  # noqa: S603 - our own words, and a file named by us
            command, capture_output=True, text=True, timeout=LONGEST_TRIAL_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"{path.name} was tried for {LONGEST_TRIAL_S} s without an end") from error
    if done.returncode:
        said = done.stdout.strip() or f"{path.name} ended the process that tried it, by {-done.returncode}"
        raise CheckpointError(said)


def try_out(embedder: Embedder) -> None:
    """Embed noise, black and white, and look at what comes out.

    Raises:
        CheckpointError: the network does not run, or its embeddings are not of length 1, or all the same.
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
                f"the embedding of {name}, made on trial, has length {length:.3g} and not 1"
            )
    if np.ptp(rows, axis=0).max() <= SAME * np.abs(rows).max():
        raise CheckpointError("the network makes the same embedding of every image")


def main(path: str | Path) -> None:
    """Load and try a checkpoint; say what is wrong with it, and end with status 1."""
    try:
        try_out(Embedder(load_checkpoint(path)))
    except ModelError as error:
        print(error)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main(sys.argv[1])
