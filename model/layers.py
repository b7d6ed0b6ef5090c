"""What networks share: the head with pooling, BNNeck and classifier, GeM pooling, and a convolution."""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

FEATURES = ("bn", "pooled")
"""The embeddings that a network can return: ``bn`` after BatchNorm and activation, ``pooled`` before both."""

POOLINGS = ("average", "gem")


class TrainingOutput(NamedTuple):
    """The output of a network in training mode, for the losses.

    Attributes:
        pooled: float (N, D), before BatchNorm, for the triplet loss.
        embedding: float (N, D), after BatchNorm and activation, for distillation.
        logits: float (N, num_identities), for the cross-entropy.
    """

    pooled: Tensor
    embedding: Tensor
    logits: Tensor


class ReidNetwork(nn.Module):
    """A backbone, pooling, a BNNeck and a classifier.

    Source: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", CVPRW 2019,
    section 3.5 (BNNeck).

    Args:
        backbone: stages from images to a feature map. The first stage is the stem, which the CPU runtime
            keeps in fp32.
        embedding_size: numbers D in an embedding.
        num_identities: identities that the classifier tells apart.
        pool: from a feature map to (N, D, 1, 1); global average pooling by default.
        activation: follows the neck; none by default.

    Attributes:
        feature: the embedding in eval mode, ``bn`` or ``pooled``, as in FEATURES.
        gradient_checkpointing: compute each stage again in the backward pass of a training step. The step
            then takes less memory and more time.
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
        self.gradient_checkpointing = False
        self.backbone = backbone
        self.pool = pool or nn.AdaptiveAvgPool2d(1)
        self.neck = nn.BatchNorm1d(embedding_size)
        self.neck.bias.requires_grad_(False)
        self.activation = activation or nn.Identity()
        self.classifier = nn.Linear(embedding_size, num_identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: Tensor) -> Tensor | TrainingOutput:
        """Embed images.

        Args:
            images: normalised, float (N, 3, H, W).

        Returns:
            In training mode a TrainingOutput. In eval mode the embeddings, float (N, D), not of length 1.
        """
        return self.pool_and_norm(self._maps(images))

    def pool_and_norm(self, maps: Tensor) -> Tensor | TrainingOutput:
        """Return what ``forward`` returns, from the feature map of the backbone, (N, C, H, W)."""
        pooled: Tensor = self.pool(maps).flatten(1)
        if not self.training and self.feature == "pooled":
            return pooled
        embedding: Tensor = self.activation(self.neck(pooled))
        if not self.training:
            return embedding
        return TrainingOutput(pooled, embedding, self.classifier(embedding))

    def _maps(self, images: Tensor) -> Tensor:
        if not (self.training and self.gradient_checkpointing):
            return self.backbone(images)  # type: ignore[no-any-return]
        for stage in self.backbone:
            if next(stage.parameters(), None) is None:
                images = stage(images)  # without weights: saves little, and may change its input in place
                continue
            contexts = functools.partial(_contexts, stage)
            images = checkpoint(stage, images, use_reentrant=False, context_fn=contexts)
        return images


def _contexts(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _without_statistics(stage)


@contextmanager
def _without_statistics(stage: nn.Module) -> Iterator[None]:
    """Keep BatchNorm layers from counting a batch again when a stage is computed a second time."""
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
    """Generalised-mean pooling (GeM) with a learnt exponent.

    Source: Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019, section
    3.2.

    Args:
        exponent: its value before training.
        smallest: values below are raised to it, so that the power is defined.
    """

    def __init__(self, exponent: float = 3.0, smallest: float = 1e-6) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor([exponent]))
        self._smallest = smallest

    def forward(self, maps: Tensor) -> Tensor:
        """Pool float (N, C, H, W) to (N, C, 1, 1)."""
        powers = maps.clamp(min=self._smallest).pow(self.exponent)
        return powers.mean(dim=(2, 3), keepdim=True).pow(1 / self.exponent)


class StridedDepthwise(nn.Conv2d):
    """A strided depthwise convolution that stays in float32 when a CPU trains in bf16.

    On a CPU its gradient in bf16 takes 5 to 25 times as long as in float32, which was a quarter of a training
    step.
    """

    @classmethod
    def like(cls, other: nn.Conv2d) -> "StridedDepthwise":
        """Return a 3 x 3 convolution with fresh weights, and with the channels and stride of another one."""
        channels = other.in_channels
        return cls(channels, channels, 3, stride=other.stride, padding=1, groups=channels, bias=False)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve float (N, C, H, W) to (N, C, H / stride, W / stride)."""
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())
