"""Training crops as tensors. The augmentation of a crop depends only on its place in the epoch.

The number of workers, their speed, and an interruption of the run therefore do not change the images.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from training.data.datasets import Sample, open_crop


class Draw(NamedTuple):
    """One place in a batch.

    Attributes:
        position: of the sample in the training split.
        seed: of the crop's augmentation.
    """

    position: int
    seed: int


class Batch(NamedTuple):
    """A batch of training images.

    Attributes:
        images: float32 (N, 3, H, W), normalised.
        labels: int64 (N,), the class of each image.
        positions: int64 (N,), the position of each sample in the training split.
    """

    images: Tensor
    labels: Tensor
    positions: Tensor


def plan_epoch(batches: Sequence[Sequence[int]], *, seed: int, epoch: int) -> list[list[Draw]]:
    """Give each place in an epoch's batches its own augmentation seed.

    >>> first, second = plan_epoch([[4, 7], [4, 9]], seed=0, epoch=3)
    >>> [draw.position for draw in first], first[0].seed != second[0].seed
    ([4, 7], True)
    """
    rng = random.Random(f"augmentation {seed}/{epoch}")  # noqa: S311 - not a secret
    return [[Draw(position, rng.getrandbits(32)) for position in batch] for batch in batches]


def select_frequent(samples: Sequence[Sample], min_images: int) -> list[int]:
    """Return the positions of the samples whose identity has at least ``min_images`` samples."""
    counts = Counter(sample.pid for sample in samples)
    return [position for position, sample in enumerate(samples) if counts[sample.pid] >= min_images]


class Crops(Dataset[tuple[Tensor, int, int]]):
    """A data set of (augmented image, label of its identity, position), indexed by `Draw`."""

    def __init__(
        self, samples: Sequence[Sample], labels: dict[int, int], augment: Callable[[Image.Image], Tensor]
    ) -> None:
        self._samples, self._labels, self._augment = samples, labels, augment

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int, int]:
        sample = self._samples[draw.position]
        image = open_crop(sample.path)
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(draw.seed)
        try:
            return self._augment(image), self._labels[sample.pid], draw.position
        finally:
            torch.set_rng_state(before)
