"""OSNet, a trunk made for re-identification, in the form of Intel's `person-reidentification-retail-0277`.

Source: Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019. OpenVINO publishes
Intel's form with its weights. The particulars of this form:

* The image and the output of the first convolution are instance-normalised.
* The gate of every second block is a group normalisation of the channel means, not two small layers.
* Average pooling stands between the stages.
* A depthwise convolution over the whole grid takes the place of global average pooling.
* There is no BatchNorm, because BatchNorm came folded into the convolutions.

Shape legend: N images, C channels, H height, W width, D embedding.
"""

import torch
from torch import Tensor, nn

NUM_GROUPS = 16
"""Groups of channels in the group normalisation of a NormGate."""


class LightConv(nn.Sequential):
    """A pointwise convolution and a depthwise 3 x 3 convolution (section 3.1 of the paper)."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.ReLU(inplace=True),
        )


class BottleneckGate(nn.Sequential):
    """Weights of channels, from the channel means by two small layers (section 3.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels // 16, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 16, channels, 1),
            nn.Sigmoid(),
        )


class NormGate(nn.Sequential):
    """Weights of channels, from the channel means normalised in groups of neighbouring channels.

    The scale and shift of the normalisation are a convolution, because OpenVINO would otherwise reorder the
    feature maps in memory.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.GroupNorm(NUM_GROUPS, channels, affine=False),
            nn.Conv2d(channels, channels, 1, groups=channels),
            nn.Sigmoid(),
        )


class OsBlock(nn.Module):
    """The sum of four streams, each weighted by the same gate, and a residual.

    The streams have one to four light convolutions (section 3.2 of the paper).
    """

    def __init__(self, channels_in: int, channels_out: int, gate: type[BottleneckGate | NormGate]) -> None:
        super().__init__()
        channels = channels_out // 4
        self.reduce = nn.Sequential(nn.Conv2d(channels_in, channels, 1), nn.ReLU(inplace=True))
        self.first = LightConv(channels)
        self.gate = gate(channels)
        self.others = nn.ModuleList(
            nn.Sequential(*(LightConv(channels) for _ in range(length))) for length in (2, 3, 4)
        )
        self.expand = nn.Conv2d(channels, channels_out, 1)
        self.shortcut = (
            nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return float (N, channels_out, H, W) for float (N, channels_in, H, W).

        The gate is applied once, to the channel means of all four streams as one batch.
        """
        reduced = self.reduce(maps)
        scales = [self.first(reduced), *(stream(reduced) for stream in self.others)]
        gates = self.gate(torch.cat([scale.mean(dim=(2, 3), keepdim=True) for scale in scales])).chunk(
            len(scales)
        )
        fused = scales[0] * gates[0]
        for scale, gate in zip(scales[1:], gates[1:], strict=True):
            fused = fused + scale * gate
        return torch.relu(self.expand(fused) + self.shortcut(maps))


def make_stem() -> nn.Sequential:
    """Return the stem: (N, 3, H, W) to (N, 64, H / 4, W / 4)."""
    return nn.Sequential(
        nn.InstanceNorm2d(3, affine=True),
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        nn.InstanceNorm2d(64, affine=True),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


def make_stage(channels_in: int, channels_out: int, *, is_last: bool = False) -> nn.Sequential:
    """Return two blocks and, but for the last stage, the transition that halves the grid."""
    blocks = [
        OsBlock(channels_in, channels_out, BottleneckGate),
        OsBlock(channels_out, channels_out, NormGate),
    ]
    mix = [nn.Conv2d(channels_out, channels_out, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*blocks, *mix) if is_last else nn.Sequential(*blocks, *mix, nn.AvgPool2d(2))


def make_head(channels: int, embedding_size: int, height: int, width: int) -> nn.Sequential:
    """Return the pooling from (N, C, H, W) to (N, D, 1, 1): a weight for each place, then a linear layer."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, (height, width), groups=channels),
        nn.Conv2d(channels, embedding_size, 1),
    )
