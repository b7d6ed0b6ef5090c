"""Embed the crops of a data set, shared by several processes where there are several."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from model.embedder import normalise_rows
from training.data.datasets import Sample, open_crop
from training.engine import distributed
from training.weights.foreign import EmbedImages, Floats

BATCH_SIZE = 16


def embed_samples(
    samples: Sequence[Sample], embed: EmbedImages, label: str, *, with_flip: bool = False
) -> Floats:
    """Embed the crops in their order, with a progress bar: float32 (N, D).

    ``with_flip`` averages a crop and its mirror image, and normalises again. Several processes share
    the work.
    """
    rows = {}
    starts = distributed.share(range(0, len(samples), BATCH_SIZE))
    console = Console(stderr=True, quiet=distributed.rank() != 0)
    for start in track(starts, description=label, console=console):
        images = [open_crop(sample.path) for sample in samples[start : start + BATCH_SIZE]]
        embeddings = embed(images)
        if with_flip:
            mirrored = embed([image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images])
            embeddings = normalise_rows(embeddings + mirrored)
        rows[start] = embeddings
    return np.concatenate(distributed.collect(rows))
