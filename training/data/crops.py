"""From an epoch's plan to tensors. What chance does to a crop is a function of its place in the epoch.

So neither the number of workers, nor which of them is faster, nor a run that was stopped and resumed, changes
what a network sees.
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
    """One place in a batch: the position of the sample, and the seed of what chance does to it."""

    position: int
    seed: int


class Batch(NamedTuple):
    """What a network is shown: images (N, 3, H, W), labels (N) and positions of the samples (N)."""

    images: Tensor
    labels: Tensor
    positions: Tensor


def plan_epoch(batches: Sequence[Sequence[int]], *, seed: int, epoch: int) -> list[list[Draw]]:
    """Give every place of an epoch's batches a seed of its own.

    >>> first, second = plan_epoch([[4, 7], [4, 9]], seed=0, epoch=3)
    >>> [draw.position for draw in first], first[0].seed != second[0].seed
    ([4, 7], True)
    """
    rng = random.Random(f"augmentation {seed}/{epoch}")  # noqa: S311 - not a secret
    return [[Draw(position, rng.getrandbits(32)) for position in batch] for batch in batches]


def common_identities(samples: Sequence[Sample], min_images: int) -> list[int]:
    """Return the positions of the samples whose identity has that many."""
    counts = Counter(sample.pid for sample in samples)
    return [position for position, sample in enumerate(samples) if counts[sample.pid] >= min_images]


class Crops(Dataset[tuple[Tensor, int, int]]):
    """Samples as (image, label of its pid, position), augmented with the seed of their draw."""

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
