"""From images to embeddings: the object that training, evaluation and service share."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.checkpoint import Checkpoint
from model.runtime import make_runtime

MAX_BATCH = 16


class Embedder:
    """Embeds person crops with one network. Many threads may call it at once.

    Args:
        checkpoint: the network. The torch runtime moves the network to the device.
        device: ``auto``, ``cpu`` (OpenVINO), ``cuda`` or ``torch-cpu``, as in ``make_runtime``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``, as in ``make_runtime``.
        cache_dir: folder where a converted network is kept, so that the next start is faster. Without a
            folder, the network is converted at every start.
        is_cache_read_only: whether nothing may be written into that folder.

    Raises:
        RuntimeUnavailable: this machine does not have the device or the precision.
        CheckpointError: OpenVINO cannot run the network.

    Example:
        >>> from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
        >>> embedder = Embedder(load_checkpoint(DEFAULT_CHECKPOINT), "torch-cpu")
        >>> embedder.embed([Image.new("RGB", (64, 128))]).shape
        (1, 256)
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        precision: str = "auto",
        cache_dir: str | Path | None = None,
        *,
        is_cache_read_only: bool = False,
    ) -> None:
        self.version = checkpoint.version
        self.embedding_size = checkpoint.card.embedding_size
        self._preprocess = checkpoint.preprocess
        self._runtime = make_runtime(
            checkpoint, device, precision, cache_dir, is_cache_read_only=is_cache_read_only
        )

    @property
    def runtime(self) -> str:
        """The engine and its precision, such as ``openvino-bf16``."""
        return self._runtime.name

    def embed(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Embed N crops.

        Args:
            images: N crops of any size and mode.

        Returns:
            float32 (N, D), rows of length 1. In fp32, the other crops of a call change the embedding of a
            crop by rounding alone.
        """
        rows = [np.empty((0, self.embedding_size), dtype=np.float32)]
        for start in range(0, len(images), MAX_BATCH):
            pixels = self._preprocess.pixels(images[start : start + MAX_BATCH])
            rows.append(normalise_rows(self._runtime.run(pixels)))
        return np.concatenate(rows)


def normalise_rows(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row to length 1. A row of zeros stays a row of zeros.

    Args:
        embeddings: float32 (N, D).

    Returns:
        float32 (N, D).

    >>> normalise_rows(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    normalised: NDArray[np.float32] = embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)
    return normalised.astype(np.float32, copy=False)
