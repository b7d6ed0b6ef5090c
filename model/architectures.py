"""Every network by name: a trunk, with RGA modules after some of its stages.

A network is built for one input size, because an RGA module has weights for each place of its feature map.
``rga_sc_resnet50`` is the network of the paper. The paper's ablations exist on every trunk: ``rga_s_``,
``rga_c_``, ``rga_cs_``, ``rga_parallel_``, ``rga_sc_relations_``, ``rga_sc_feature_``, ``rga_sc_symmetric_``,
and ``rga_sc_stage1_`` to ``rga_sc_stage4_``. The name of a trunk alone is the network without attention.
There is one exception: ``tiny`` has RGA-SC, and ``plain_tiny`` has no attention.
"""

import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from model import osnet
from model.attention import RelationAwareGlobalAttention
from model.errors import UnknownArchitecture
from model.layers import FEATURES, POOLINGS, GeneralisedMean, ReidNetwork, StridedDepthwise

Builder = Callable[[int, int, int], ReidNetwork]

DRAWS = (torch.Tensor.normal_, nn.init.normal_)
"""What draws first weights in a way that is slow on the meta device."""


class Stage(NamedTuple):
    """A part of a trunk.

    Attributes:
        module: the layers.
        channels: of the feature map that the stage puts out; 0 if no RGA module can follow the stage.
        stride: pixels of the image for one place of that feature map, at most 16. The map of an image of
            height x width pixels has exactly height // stride x width // stride places.
    """

    module: nn.Module
    channels: int = 0
    stride: int = 1


class Head(NamedTuple):
    """How a trunk ends: the size of the embedding and, unless it is a global average, the pooling.

    Attributes:
        embedding_size: numbers D in an embedding.
        make_pool: builds the pooling for an image of a height and width in pixels.
    """

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
    """Build a network with fresh weights.

    Args:
        name: a key of ARCHITECTURES.
        height: of the input images, in pixels; a positive multiple of 16.
        width: of the input images, in pixels; a positive multiple of 16.
        num_identities: identities that the classifier tells apart, at least 1.
        feature: the embedding in eval mode, ``bn`` (after BatchNorm and activation) or ``pooled`` (before).
        pooling: ``average``, or ``gem`` for a GeneralisedMean.

    Raises:
        UnknownArchitecture: no network has that name.
        ValueError: an argument is out of its range, or ``gem`` is asked of a trunk with its own pooling.
    """
    if name not in ARCHITECTURES:
        raise UnknownArchitecture(f"no architecture {name!r}; there are {', '.join(ARCHITECTURES)}")
    if min(height, width) < 16 or height % 16 or width % 16:
        raise ValueError(f"height and width must be positive multiples of 16, got {height} x {width}")
    if num_identities < 1:
        raise ValueError(f"num_identities must be at least 1, got {num_identities}")
    if feature not in FEATURES or pooling not in POOLINGS:
        raise ValueError(
            f"feature is one of {FEATURES} and pooling one of {POOLINGS}, not {feature!r}, {pooling!r}"
        )
    network = ARCHITECTURES[name](height, width, num_identities)
    network.feature = feature
    if pooling == "gem":
        if not isinstance(network.pool, nn.AdaptiveAvgPool2d):
            raise ValueError(f"{name} has a pooling of its own, so pooling must be average, not gem")
        network.pool = GeneralisedMean()
    return network


def _resnet50() -> tuple[list[Stage], Head]:
    """ResNet-50 with last stride 1 (RGA paper, section 4.2)."""
    from torchvision.models import resnet50  # imported here: it would take a third of a server's import time

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
    """MobileNetV2 with last stride 1. Its stages end at strides 4, 8 and 16, and with the last layer."""
    from torchvision.models import mobilenet_v2

    features: Any = mobilenet_v2(weights=None).features
    features[14].conv[1][0].stride = (1, 1)
    for block in (features[2], features[4], features[7]):
        block.conv[1][0] = StridedDepthwise.like(block.conv[1][0])
    cuts = [(0, 4, 24, 4), (4, 7, 32, 8), (7, 14, 96, 16), (14, 19, 1280, 16)]
    return [Stage(features[start:stop], *rest) for start, stop, *rest in cuts], Head(1280)


def _osnet() -> tuple[list[Stage], Head]:
    """OSNet with the pooling and the embedding size of its published form."""
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
"""Trunks with one RGA module, after the last stage. Other trunks have an RGA module after every stage.

The suffixes ``_all`` and ``_stage1`` to ``_stage4`` in a name choose other stages.
"""

VARIANTS: dict[str, dict[str, Any]] = {
    "rga_sc": {},
    "rga_s": {"channel": False},
    "rga_c": {"spatial": False},
    "rga_cs": {"order": "channel_first"},
    "rga_parallel": {"order": "parallel"},
    "rga_sc_relations": {"inputs": "relations"},
    "rga_sc_feature": {"inputs": "feature"},
    "rga_sc_symmetric": {"is_symmetric": True},
}
"""The options of RelationAwareGlobalAttention for the paper's modules and its ablations (section 4.3)."""

NUM_STAGES = {"resnet50": 4, "mobilenet_v2": 4, "osnet": 3, "tiny": 4}


@contextmanager
def without_weights() -> Iterator[None]:
    """Build networks on the meta device in this context: they have shapes, and take no memory."""
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    """Draws no first weights: on the meta device a draw would import `torch._dynamo`, for seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return None if func in DRAWS else func(*args, **(kwargs or {}))


def _stages_of(trunk: str, suffix: str) -> tuple[int, ...]:
    """Return the numbers, from 1, of the stages that an RGA module follows.

    >>> _stages_of("resnet50", "_stage2"), _stages_of("osnet", "_all"), _stages_of("osnet", "")
    ((2,), (1, 2, 3), (3,))
    """
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
    """Yield every name with its trunk, variant and suffix for ``_stages_of``.

    For example, ``rga_sc_stage2_resnet50`` comes with ``("resnet50", "rga_sc", "_stage2")``.
    """
    for trunk, number in NUM_STAGES.items():
        yield ("plain_tiny" if trunk == "tiny" else trunk), (trunk, "", "")
        for variant in VARIANTS:
            yield f"{variant}_{trunk}", (trunk, variant, "")
        for suffix in ("_all", *(f"_stage{place}" for place in range(1, number + 1))):
            yield f"rga_sc{suffix}_{trunk}", (trunk, "rga_sc", suffix)


_PARTS: dict[str, tuple[str, str, str]] = {**dict(_names()), "tiny": ("tiny", "rga_sc", "")}

ARCHITECTURES: dict[str, Builder] = {
    name: functools.partial(_build, *parts) for name, parts in _PARTS.items()
}


def trunk_of(architecture: str) -> str:
    """Return the trunk of an architecture, a key of TRUNKS.

    >>> trunk_of("rga_sc_stage2_resnet50"), trunk_of("plain_tiny")
    ('resnet50', 'tiny')
    """
    return _PARTS[architecture][0]
