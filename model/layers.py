"""The head every network shares, pooling, BNNeck and a classifier; and a convolution."""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

FEATURES = ("bn", "pooled")
"""Which feature a network answers with: after BatchNorm and activation, or pooled, before them."""

POOLINGS = ("average", "gem")


class TrainingOutput(NamedTuple):
    """What a network answers in training mode: inputs of the losses, all (N, ...)."""

    pooled: Tensor  # (N, D) before BatchNorm, for the triplet loss
    embedding: Tensor  # (N, D) after BatchNorm and activation, for distillation
    logits: Tensor  # (N, num_identities)


class ReidNetwork(nn.Module):
    """A backbone with a BNNeck (Luo et al., "Bag of Tricks", CVPRW 2019, section 3.5).

    The first stage of the backbone is its stem, which the CPU runtime keeps in fp32.
    ``pool`` takes maps to (N, D, 1, 1), global average pooling if none is given; ``activation`` follows the
    neck, none as a rule. In training mode ``forward`` answers a TrainingOutput; in eval mode the embedding
    (N, D), not normalised: after BatchNorm and activation, or the pooled feature if ``feature`` says so.
    ``recomputes`` saves the memory of a training step by computing each stage a second time on the way back.
    """

    def __init__(
        self,
        backbone: nn.Sequential,
        embedding_size: int,
        num_identities: int,
        *,
        pool: nn.Module | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.num_identities = num_identities
        self.feature = "bn"
        self.recomputes = False
        self.backbone = backbone
        self.pool = pool or nn.AdaptiveAvgPool2d(1)
        self.neck = nn.BatchNorm1d(embedding_size)
        self.neck.bias.requires_grad_(False)
        self.activation = activation or nn.Identity()
        self.classifier = nn.Linear(embedding_size, num_identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: Tensor) -> Tensor | TrainingOutput:
        """Embed normalised images, float (N, 3, H, W)."""
        return self.pool_and_norm(self._maps(images))

    def pool_and_norm(self, maps: Tensor) -> Tensor | TrainingOutput:
        """Pool the backbone's maps (N, C, H, W) and put them through the neck."""
        pooled: Tensor = self.pool(maps).flatten(1)
        if not self.training and self.feature == "pooled":
            return pooled
        embedding: Tensor = self.activation(self.neck(pooled))
        if not self.training:
            return embedding
        return TrainingOutput(pooled, embedding, self.classifier(embedding))

    def _maps(self, images: Tensor) -> Tensor:
        if not (self.training and self.recomputes):
            return self.backbone(images)  # type: ignore[no-any-return]
        for stage in self.backbone:
            if next(stage.parameters(), None) is None:
                images = stage(images)  # little to save, and it may work in place
                continue
            contexts = functools.partial(_contexts, stage)
            images = checkpoint(stage, images, use_reentrant=False, context_fn=contexts)
        return images


def _contexts(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _without_statistics(stage)


@contextmanager
def _without_statistics(stage: nn.Module) -> Iterator[None]:
    """Keep batch normalisations from counting a batch a second time."""
    norms = [m for m in stage.modules() if isinstance(m, _BatchNorm)]
    counts = [buffer for name, buffer in stage.named_buffers() if name.endswith("num_batches_tracked")]
    momenta, numbers = [norm.momentum for norm in norms], [int(count) for count in counts]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for count, number in zip(counts, numbers, strict=True):
            count.fill_(number)


class GeneralisedMean(nn.Module):
    """Generalised-mean pooling with a learnt exponent (Radenovic et al., TPAMI 2019, section 3.2)."""

    def __init__(self, exponent: float = 3.0, smallest: float = 1e-6) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor([exponent]))
        self._smallest = smallest

    def forward(self, maps: Tensor) -> Tensor:
        """Pool (N, C, H, W) to (N, C, 1, 1)."""
        powers = maps.clamp(min=self._smallest).pow(self.exponent)
        return powers.mean(dim=(2, 3), keepdim=True).pow(1 / self.exponent)


class StridedDepthwise(nn.Conv2d):
    """A strided depthwise convolution that stays in float32 when the CPU trains in bf16.

    Its bf16 gradient falls off the fast path there: 5 to 25 times slower than float32, a quarter of a step.
    """

    @classmethod
    def like(cls, other: nn.Conv2d) -> "StridedDepthwise":
        """Return a 3 x 3 one with the channels and the stride of another convolution."""
        channels = other.in_channels
        return cls(channels, channels, 3, stride=other.stride, padding=1, groups=channels, bias=False)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, H, W)."""
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())
