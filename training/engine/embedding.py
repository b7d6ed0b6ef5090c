"""Embed the crops of a data set. The processes of a run share the work."""

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
    """Embed crops, with a progress bar.

    Args:
        samples: the crops.
        embed: returns the L2-normalised embeddings of a list of images.
        label: of the progress bar.
        with_flip: average each crop's embedding with that of its mirror image, and normalise again.

    Returns:
        float32 (N, D), L2-normalised, in the order of the samples; the same in each process.

    Raises:
        DatasetError: a crop cannot be read.
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
