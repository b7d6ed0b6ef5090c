"""Every network by name. An RGA module is bound to its feature grid, so each is built for one input size."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision.models import mobilenet_v2, resnet50
from torchvision.models.resnet import ResNet

from model import osnet
from model.attention import RelationAwareGlobalAttention
from model.errors import UnknownArchitecture
from model.layers import FEATURES, POOLINGS, GeneralisedMean, ReidNetwork, StridedDepthwise

Builder = Callable[[int, int, int], ReidNetwork]


def build_network(
    name: str,
    *,
    height: int,
    width: int,
    num_identities: int,
    feature: str = "bn",
    pooling: str = "average",
) -> ReidNetwork:
    """Build a network with fresh weights for input images of height x width pixels.

    ``feature`` is what it answers in eval mode, ``bn`` or ``pooled``; ``pooling`` is ``average`` or ``gem``.

    Raises:
        UnknownArchitecture: no network has that name.
        ValueError: a side is not a positive multiple of 16, there is no identity, or no such feature or
            pooling.
    """
    if name not in ARCHITECTURES:
        raise UnknownArchitecture(f"no architecture {name!r}; there are {', '.join(sorted(ARCHITECTURES))}")
    if min(height, width) < 16 or height % 16 or width % 16:
        raise ValueError(f"height and width must be multiples of 16, got {height} x {width}")
    if num_identities < 1:
        raise ValueError(f"num_identities must be at least 1, got {num_identities}")
    if feature not in FEATURES or pooling not in POOLINGS:
        raise ValueError(f"no feature {feature!r} with {pooling!r} pooling: {FEATURES} and {POOLINGS} exist")
    network = ARCHITECTURES[name](height, width, num_identities)
    network.feature = feature
    if pooling == "gem":
        if not isinstance(network.pool, nn.AdaptiveAvgPool2d):
            raise ValueError(f"{name} has a pooling of its own, which GeM cannot replace")
        network.pool = GeneralisedMean()
    return network


def _resnet50(height: int, width: int, num_identities: int, **parts: bool) -> ReidNetwork:
    """ResNet-50 with last stride 1 and one RGA after each stage (RGA paper, section 4.2)."""
    trunk: ResNet = resnet50(weights=None)
    first = trunk.layer4[0]
    first.conv2.stride = first.downsample[0].stride = (1, 1)
    layers: list[nn.Module] = [nn.Sequential(trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool)]
    stages = [
        (trunk.layer1, 256, 4),
        (trunk.layer2, 512, 8),
        (trunk.layer3, 1024, 16),
        (trunk.layer4, 2048, 16),
    ]
    for stage, channels, stride in stages:
        layers.append(stage)
        if parts:
            layers.append(RelationAwareGlobalAttention(channels, height // stride, width // stride, **parts))
    return ReidNetwork(nn.Sequential(*layers), 2048, num_identities)


def _mobilenet_v2(height: int, width: int, num_identities: int) -> ReidNetwork:
    """MobileNetV2 with last stride 1 and RGA-SC after the /4, /8 and /16 stages and the last layer."""
    features: Any = mobilenet_v2(weights=None).features
    features[14].conv[1][0].stride = (1, 1)
    for block in (features[2], features[4], features[7]):
        block.conv[1][0] = StridedDepthwise.like(block.conv[1][0])
    cuts = [(0, 4, 24, 4), (4, 7, 32, 8), (7, 14, 96, 16), (14, 19, 1280, 16)]
    layers: list[nn.Module] = []
    for start, stop, channels, stride in cuts:
        layers.append(features[start:stop])
        layers.append(RelationAwareGlobalAttention(channels, height // stride, width // stride))
    return ReidNetwork(nn.Sequential(*layers), 1280, num_identities)


def _osnet(height: int, width: int, num_identities: int, *, with_rga: bool) -> ReidNetwork:
    """OSNet, with RGA-SC after its last stage or without."""
    layers: list[nn.Module] = [
        osnet.make_stem(),
        osnet.make_stage(64, 256),
        osnet.make_stage(256, 384),
        osnet.make_stage(384, 512, is_last=True),
    ]
    grid = height // 16, width // 16
    if with_rga:
        layers.append(RelationAwareGlobalAttention(512, *grid))
    head = osnet.make_head(512, 256, *grid)
    return ReidNetwork(nn.Sequential(*layers), 256, num_identities, pool=head, activation=nn.PReLU())


def _tiny(height: int, width: int, num_identities: int) -> ReidNetwork:
    """A network of some 20,000 weights, for tests and smoke runs."""
    layers: list[nn.Module] = []
    for channels_in, channels_out in [(3, 16), (16, 32), (32, 32), (32, 64)]:
        layers += [
            nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        ]
    layers.append(RelationAwareGlobalAttention(64, height // 16, width // 16))
    return ReidNetwork(nn.Sequential(*layers), 64, num_identities)


ARCHITECTURES: dict[str, Builder] = {
    "rga_sc_resnet50": lambda h, w, n: _resnet50(h, w, n, spatial=True, channel=True),
    "rga_s_resnet50": lambda h, w, n: _resnet50(h, w, n, spatial=True, channel=False),
    "rga_c_resnet50": lambda h, w, n: _resnet50(h, w, n, spatial=False, channel=True),
    "resnet50": _resnet50,
    "rga_sc_mobilenet_v2": _mobilenet_v2,
    "rga_sc_osnet": lambda h, w, n: _osnet(h, w, n, with_rga=True),
    "osnet": lambda h, w, n: _osnet(h, w, n, with_rga=False),
    "tiny": _tiny,
}
