"""The trial of a network before it is kept: a few images are embedded and the embeddings are checked.

A foreign network is tried in another process, because a hostile graph can crash OpenVINO. The process has
limits of memory and of processor time, and gives way to all other processes.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
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
MAX_CPU_S = 120
MAX_MEMORY_BYTES = 1 << 30
"""What a trial may take beside MEMORY_BY_SIZE times the size of the checkpoint."""

MEMORY_BY_SIZE = 8
"""The checkpoint, its tensors, the graph and what OpenVINO compiles of it are copies of the same weights."""

NICENESS = 10
MAX_TOLD = 2_000


def try_apart(path: str | Path, kept_open: Sequence[int] = ()) -> bool:
    """Try the network of a checkpoint in another process, if the network is foreign.

    Other networks are not tried, because their layers are our own code.

    Args:
        path: the checkpoint.
        kept_open: file descriptors that the other process holds too, such as that of a lock, which then is
            held until that process has ended, even if this one is killed.

    Returns:
        Whether the network is foreign.

    Raises:
        CheckpointError: the checkpoint cannot be loaded, the network fails ``try_out``, or the other process
            crashes or takes more than LONGEST_TRIAL_S seconds.
    """
    path = Path(path)
    if read_card(path).architecture != FOREIGN:
        return False
    command = [sys.executable, "-m", "model.interop.trial", str(path)]
    try:
        done = subprocess.run(  # noqa: S603 - a command of ours and a path
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            timeout=LONGEST_TRIAL_S,
            check=False,
            pass_fds=kept_open,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"the trial of {path.name} did not end within {LONGEST_TRIAL_S} s") from error
    if done.returncode:
        code = done.returncode
        end = f"by signal {-code}" if code < 0 else f"with exit status {code}"
        memory = f"; it may take {_max_memory(path) >> 20:,} MiB"
        raise CheckpointError(
            done.stdout.strip() or f"{path.name} ended the process that tried it, {end}{memory}"
        )
    return True


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
        print(str(error)[:MAX_TOLD])
        raise SystemExit(1) from error
    except MemoryError as error:
        mebibytes = _max_memory(Path(path)) >> 20
        print(f"{Path(path).name} needs more than the {mebibytes:,} MiB that a trial may take")
        raise SystemExit(1) from error


def limit(path: str | Path) -> None:
    """Limit the memory and the processor time of this process, and let it give way to others.

    What the process has already, which is Python, torch and OpenVINO, does not count.
    """
    with open("/proc/self/statm", encoding="ascii") as file:
        num_pages = int(file.read().split()[5])  # the same that RLIMIT_DATA counts
    memory = num_pages * resource.getpagesize() + _max_memory(Path(path))
    limits = {resource.RLIMIT_DATA: memory, resource.RLIMIT_CPU: MAX_CPU_S, resource.RLIMIT_CORE: 0}
    for kind, value in limits.items():
        _, hard = resource.getrlimit(kind)
        lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (lower, lower))
    os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _max_memory(path: Path) -> int:
    """Return how many bytes the trial of a checkpoint may take."""
    return MAX_MEMORY_BYTES + MEMORY_BY_SIZE * path.stat().st_size


if __name__ == "__main__":
    limit(sys.argv[1])
    main(sys.argv[1])
