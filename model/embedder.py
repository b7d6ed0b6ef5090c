"""From images to embeddings: the one object that evaluation and service share."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.checkpoint import Checkpoint
from model.runtime import make_runtime

MAX_BATCH = 16


class Embedder:
    """Embeds person crops with one network. Safe to call from many threads.

    Args:
        checkpoint: the network; in the torch runtime it is moved to the device.
        device: ``auto``, ``cpu`` (OpenVINO), ``cuda`` or ``torch-cpu``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        cache_dir: where a converted network is kept for the next start; none keeps nothing.

    Raises:
        RuntimeUnavailable: this machine has no such device or precision.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        precision: str = "auto",
        cache_dir: str | Path | None = None,
    ) -> None:
        self.version = checkpoint.version
        self.embedding_size = checkpoint.card.embedding_size
        self._preprocess = checkpoint.preprocess
        self._runtime = make_runtime(checkpoint, device, precision, cache_dir)

    @property
    def runtime(self) -> str:
        """Name the engine and its precision, such as ``openvino-bf16``."""
        return self._runtime.name

    def embed(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Return L2-normalised float32 (N, D); in fp32 a crop's row does not depend on its neighbours."""
        rows = [np.empty((0, self.embedding_size), dtype=np.float32)]
        for start in range(0, len(images), MAX_BATCH):
            pixels = self._preprocess.pixels(images[start : start + MAX_BATCH])
            rows.append(normalise_rows(self._runtime.run(pixels)))
        return np.concatenate(rows)


def normalise_rows(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row to length 1; a row of zeros stays one.

    >>> normalise_rows(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    normalised: NDArray[np.float32] = embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)
    return normalised.astype(np.float32, copy=False)
