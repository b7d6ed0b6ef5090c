"""The head every network shares, global average pooling, BNNeck and a classifier; and a convolution."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


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
    (N, D) after BatchNorm and activation, not normalised.
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
        self.backbone = backbone
        self.pool = pool or nn.AdaptiveAvgPool2d(1)
        self.neck = nn.BatchNorm1d(embedding_size)
        self.neck.bias.requires_grad_(False)
        self.activation = activation or nn.Identity()
        self.classifier = nn.Linear(embedding_size, num_identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: Tensor) -> Tensor | TrainingOutput:
        """Embed normalised images, float (N, 3, H, W)."""
        pooled = self.pool(self.backbone(images)).flatten(1)
        embedding = self.activation(self.neck(pooled))
        if not self.training:
            return embedding  # type: ignore[no-any-return]
        return TrainingOutput(pooled, embedding, self.classifier(embedding))


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
