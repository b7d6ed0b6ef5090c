"""Every network by name: a trunk with RGA modules, which are bound to their grid, hence to an input size.

``rga_sc_resnet50`` is the paper's; ``rga_s_``, ``rga_c_``, ``rga_cs_``, ``rga_parallel_``,
``rga_sc_relations_``, ``rga_sc_feature_``, ``rga_sc_symmetric_`` and ``rga_sc_stage1_`` to ``4_`` are its
ablations, on any trunk; the trunk's name alone is the network without attention (``plain_tiny``, since
``tiny`` has RGA-SC).
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import nn

from model import osnet
from model.attention import RelationAwareGlobalAttention
from model.errors import UnknownArchitecture
from model.layers import FEATURES, POOLINGS, GeneralisedMean, ReidNetwork, StridedDepthwise

Builder = Callable[[int, int, int], ReidNetwork]


class Stage(NamedTuple):
    """A part of a trunk; ``channels`` and ``stride`` of its maps where it may carry an RGA module."""

    module: nn.Module
    channels: int = 0
    stride: int = 1


class Head(NamedTuple):
    """The size of the embedding, and a pooling for an input size where it is no global average."""

    embedding_size: int
    make_pool: Callable[[int, int], nn.Module] | None = None


Trunk = Callable[[], tuple[list[Stage], Head]]


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
        raise UnknownArchitecture(f"no architecture {name!r}; there are {', '.join(ARCHITECTURES)}")
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


def _resnet50() -> tuple[list[Stage], Head]:
    """ResNet-50 with last stride 1 (RGA paper, section 4.2)."""
    from torchvision.models import resnet50  # a third of a server's imports, for two of the trunks

    trunk = resnet50(weights=None)
    first = trunk.layer4[0]
    first.conv2.stride = first.downsample[0].stride = (1, 1)
    stem = nn.Sequential(trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool)
    stages = [
        Stage(trunk.layer1, 256, 4),
        Stage(trunk.layer2, 512, 8),
        Stage(trunk.layer3, 1024, 16),
        Stage(trunk.layer4, 2048, 16),
    ]
    return [Stage(stem), *stages], Head(2048)


def _mobilenet_v2() -> tuple[list[Stage], Head]:
    """MobileNetV2 with last stride 1; its stages end at /4, /8 and /16 and with the last layer."""
    from torchvision.models import mobilenet_v2

    features: Any = mobilenet_v2(weights=None).features
    features[14].conv[1][0].stride = (1, 1)
    for block in (features[2], features[4], features[7]):
        block.conv[1][0] = StridedDepthwise.like(block.conv[1][0])
    cuts = [(0, 4, 24, 4), (4, 7, 32, 8), (7, 14, 96, 16), (14, 19, 1280, 16)]
    return [Stage(features[start:stop], *rest) for start, stop, *rest in cuts], Head(1280)


def _osnet() -> tuple[list[Stage], Head]:
    """OSNet with the head that came with it."""
    stages = [
        Stage(osnet.make_stem()),
        Stage(osnet.make_stage(64, 256), 256, 8),
        Stage(osnet.make_stage(256, 384), 384, 16),
        Stage(osnet.make_stage(384, 512, is_last=True), 512, 16),
    ]
    return stages, Head(256, lambda height, width: osnet.make_head(512, 256, height // 16, width // 16))


def _tiny() -> tuple[list[Stage], Head]:
    """A network of some 20,000 weights, for tests and smoke runs."""
    stages = []
    for number, (channels_in, channels_out) in enumerate([(3, 16), (16, 32), (32, 32), (32, 64)], start=1):
        block = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )
        stages.append(Stage(block, channels_out, 2**number))
    return stages, Head(64)


TRUNKS: dict[str, Trunk] = {
    "resnet50": _resnet50,
    "mobilenet_v2": _mobilenet_v2,
    "osnet": _osnet,
    "tiny": _tiny,
}

LAST_STAGE_ONLY = ("osnet", "tiny")
"""Trunks that carry one module, after their last stage, where a variant does not say otherwise."""

VARIANTS: dict[str, dict[str, Any]] = {
    "rga_sc": {},
    "rga_s": {"channel": False},
    "rga_c": {"spatial": False},
    "rga_cs": {"order": "channel_first"},
    "rga_parallel": {"order": "parallel"},
    "rga_sc_relations": {"sees": "relations"},
    "rga_sc_feature": {"sees": "feature"},
    "rga_sc_symmetric": {"is_symmetric": True},
}
"""The paper's modules and its ablations (section 4.3), by their options."""


NUM_STAGES = {"resnet50": 4, "mobilenet_v2": 4, "osnet": 3, "tiny": 4}


def _stages_of(trunk: str, suffix: str) -> tuple[int, ...]:
    """Return which stages, from 1, carry a module: each alone, all, or the trunk's own choice."""
    number = NUM_STAGES[trunk]
    if suffix.startswith("_stage"):
        return (int(suffix.removeprefix("_stage")),)
    return (number,) if trunk in LAST_STAGE_ONLY and suffix != "_all" else tuple(range(1, number + 1))


def _build(
    trunk: str, variant: str, suffix: str, height: int, width: int, num_identities: int
) -> ReidNetwork:
    stages, head = TRUNKS[trunk]()
    chosen = _stages_of(trunk, suffix) if variant else ()
    number = 0
    layers: list[nn.Module] = []
    for stage in stages:
        layers.append(stage.module)
        number += stage.channels > 0
        if stage.channels and number in chosen:
            grid = height // stage.stride, width // stage.stride
            layers.append(RelationAwareGlobalAttention(stage.channels, *grid, **VARIANTS[variant]))
    pool = head.make_pool(height, width) if head.make_pool else None
    activation = nn.PReLU() if head.make_pool else None
    return ReidNetwork(
        nn.Sequential(*layers), head.embedding_size, num_identities, pool=pool, activation=activation
    )


def _names() -> Iterator[tuple[str, tuple[str, str, str]]]:
    """Yield every name with its trunk, variant and stages, such as rga_sc_stage2_resnet50."""
    for trunk, number in NUM_STAGES.items():
        yield ("plain_tiny" if trunk == "tiny" else trunk), (trunk, "", "")
        for variant in VARIANTS:
            yield f"{variant}_{trunk}", (trunk, variant, "")
        for suffix in ("_all", *(f"_stage{place}" for place in range(1, number + 1))):
            yield f"rga_sc{suffix}_{trunk}", (trunk, "rga_sc", suffix)


ARCHITECTURES: dict[str, Builder] = {
    **{name: functools.partial(_build, *parts) for name, parts in _names()},
    "tiny": functools.partial(_build, "tiny", "rga_sc", ""),
}
