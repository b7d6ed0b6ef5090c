"""One file is one network: its weights, and its card as JSON in the safetensors header.

The version of a network is the first 12 hex digits of the SHA-256 of its file. Nothing is unpickled; weights
may be stored as fp16 and are float32 once loaded. A foreign network is OpenVINO's IR, two tensors of bytes.
"""

import hashlib
import json
import math
import re
import struct
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from model.architectures import build_network
from model.calibration import check_verification
from model.errors import CheckpointError, UnknownArchitecture
from model.files import write_atomically
from model.interop.graphs import GRAPH, WEIGHTS, ForeignNetwork, make_foreign
from model.layers import ReidNetwork
from model.preprocess import IMAGENET_MEAN, IMAGENET_STD, Color, Preprocess

DEFAULT_CHECKPOINT = Path(__file__).parent / "weights" / "default.safetensors"
MAX_CHECKPOINT_BYTES = 1 << 30
MAX_HEADER_BYTES = 8 << 20
MAX_SIDE = 1024
CARD_KEY = "card"
FOREIGN = "openvino"
"""The architecture of foreign networks."""

CHANNELS = ("rgb", "bgr")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a network. ``metrics`` are in percent; ``created`` is RFC 3339 in UTC.

    ``feature`` and ``pooling`` as in ``build_network``. ``channels`` is the order in which a foreign network
    reads them; ``mean`` and ``std`` are in RGB all the same. ``verification`` is what
    ``PairScores.verification`` gives, and in ``data`` the images that this was measured on, in words.

    ``compatible_with`` is a promise: queries embedded by this network find in a gallery embedded by that
    ``version`` about what that version's own queries find (see training/engine/compatibility.py). It holds
    ``rank1_cross`` and ``mAP_cross``, of these queries against that gallery, ``rank1_old`` and ``mAP_old``,
    of its own, in percent; ``is_strict`` says that both are better.
    """

    architecture: str
    height: int
    width: int
    embedding_size: int
    num_identities: int
    mean: Color = IMAGENET_MEAN
    std: Color = IMAGENET_STD
    feature: str = "bn"
    pooling: str = "average"
    channels: str = "rgb"
    recipe: str = ""
    dataset: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    verification: dict[str, Any] | None = None
    parent: str | None = None
    compatible_with: dict[str, Any] | None = None
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded network, ours in eval mode, its card and its version (12 hex digits)."""

    contents: ReidNetwork | ForeignNetwork
    card: Card
    version: str

    @property
    def network(self) -> ReidNetwork:
        """The network in torch.

        Raises:
            CheckpointError: it is a foreign one.
        """
        if isinstance(self.contents, ForeignNetwork):
            raise CheckpointError(
                f"{self.version} ({self.card.recipe}) is a foreign network, which OpenVINO runs: it can be "
                "served and evaluated, but not trained, taught from or looked into"
            )
        return self.contents

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing that the network was trained with."""
        return Preprocess(self.card.height, self.card.width, self.card.mean, self.card.std)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read, check and build the network of a file, on the CPU in float32.

    OpenVINO has read a foreign one, but not compiled it yet.

    Raises:
        CheckpointError: the file is absent, too large, torn, not ours, or does not fit its own card.
    """
    path = Path(path)
    content = _read(path)
    card = _read_card(path, content)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path.name} is not a readable safetensors file: {error}") from error
    if card.architecture != FOREIGN:
        return Checkpoint(make_network(card, tensors, path.name), card, _version(content))
    try:
        foreign = make_foreign(tensors, card.height, card.width, card.embedding_size)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name} cannot be used: {error}") from error
    return Checkpoint(foreign, card, _version(content))


def save_checkpoint(path: str | Path, network: nn.Module, card: Card, *, half: bool = False) -> str:
    """Write a network and its card, whole or not at all, and return the version.

    ``half`` stores floating-point weights as fp16, half the size.
    """
    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    return _write(path, tensors, card)


def save_foreign(path: str | Path, graph: bytes, weights: bytes, card: Card) -> str:
    """Write the XML and the weights of an OpenVINO IR and their card as a checkpoint; return the version."""
    contents = {GRAPH: graph, WEIGHTS: weights}
    tensors = {name: torch.from_numpy(np.array(bytearray(part))) for name, part in contents.items()}
    return _write(path, tensors, card)


def _write(path: str | Path, tensors: dict[str, Tensor], card: Card) -> str:
    content = save(tensors, metadata={CARD_KEY: json.dumps(card.to_dict(), sort_keys=True)})
    write_atomically(path, content)
    return _version(content)


def checkpoint_version(path: str | Path) -> str:
    """Return the version of a file without building its network.

    Raises:
        CheckpointError: the file is absent or too large.
    """
    return _version(_read(Path(path)))


def read_card(path: str | Path) -> Card:
    """Read and check the card of a file without a look at its network.

    Raises:
        CheckpointError: the file is absent or too large, or has no usable card.
    """
    path = Path(path)
    return _read_card(path, _read(path))


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_CHECKPOINT_BYTES:
            raise CheckpointError(
                f"{path.name} has {size:,} bytes; at most {MAX_CHECKPOINT_BYTES:,} are read"
            )
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _read_card(path: Path, content: bytes) -> Card:
    if len(content) < 8:
        raise CheckpointError(f"{path.name} is truncated: {len(content)} bytes hold no safetensors header")
    (length,) = struct.unpack("<Q", content[:8])
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(f"{path.name} is not a safetensors file: its header would be {length:,} bytes")
    if len(content) < 8 + length:
        raise CheckpointError(f"{path.name} is truncated inside its header")
    try:
        header = json.loads(content[8 : 8 + length])
        values = json.loads(header["__metadata__"][CARD_KEY])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path.name} has no reid-gallery card in a safetensors header") from error
    return _parse_card(path, values)


def _parse_card(path: Path, values: object) -> Card:
    if not isinstance(values, dict):
        raise CheckpointError(f"the card of {path.name} is not a JSON object")
    known = {f.name for f in fields(Card)}
    if unknown := sorted(set(values) - known):
        raise CheckpointError(f"the card of {path.name} has unknown fields: {', '.join(map(str, unknown))}")
    wanted = {"architecture", "height", "width", "embedding_size", "num_identities", "mean", "std"}
    if missing := sorted(wanted - set(values)):
        raise CheckpointError(f"the card of {path.name} lacks {', '.join(missing)}")
    is_foreign = values["architecture"] == FOREIGN
    for name in ("height", "width", "embedding_size", "num_identities"):
        is_unknown = is_foreign and name == "num_identities" and values[name] == 0
        if type(values[name]) is not int or (values[name] < 1 and not is_unknown):
            raise CheckpointError(f"{name} in the card of {path.name} must be a positive integer")
    if max(values["height"], values["width"]) > MAX_SIDE:
        raise CheckpointError(f"the card of {path.name} asks for more than {MAX_SIDE} pixels a side")
    for name in ("mean", "std"):
        values[name] = _parse_color(path, name, values[name])
    if values.get("channels", "rgb") not in (CHANNELS if is_foreign else ("rgb",)):
        raise CheckpointError(f"channels in the card of {path.name} must be rgb, or bgr of a foreign network")
    for name in ("architecture", "feature", "pooling", "recipe", "dataset", "created"):
        if not isinstance(values.get(name, ""), str):
            raise CheckpointError(f"{name} in the card of {path.name} must be a text")
    if not isinstance(values.get("parent"), str | None) or not isinstance(values.get("metrics", {}), dict):
        raise CheckpointError(f"parent or metrics in the card of {path.name} are of the wrong type")
    if values.get("verification") is not None:
        try:
            check_verification(values["verification"])
        except ValueError as error:
            raise CheckpointError(f"verification in the card of {path.name}: {error}") from error
    _check_compatible(path, values.get("compatible_with"))
    return Card(**values)


def _check_compatible(path: Path, value: object) -> None:
    if value is None:
        return
    metrics = ("rank1_cross", "mAP_cross", "rank1_old", "mAP_old")
    is_whole = (
        isinstance(value, dict)
        and set(value) | {"is_strict"} == {"version", "is_strict", *metrics}
        and isinstance(value["version"], str)
        and re.fullmatch(r"[0-9a-f]{12}", value["version"]) is not None
        and isinstance(value.get("is_strict", False), bool)
        and all(type(value[name]) in (int, float) and 0 <= value[name] <= 100 for name in metrics)
    )
    if not is_whole:
        wanted = ", ".join(("version", *metrics, "is_strict"))
        raise CheckpointError(f"compatible_with in the card of {path.name} must hold {wanted}, no more")


def _parse_color(path: Path, name: str, value: object) -> Color:
    if not isinstance(value, list) or len(value) != 3:
        raise CheckpointError(f"{name} in the card of {path.name} must be three numbers")
    if not all(type(number) in (int, float) and math.isfinite(number) for number in value):
        raise CheckpointError(f"{name} in the card of {path.name} must be three finite numbers")
    if name == "std" and min(value) <= 0:
        raise CheckpointError(f"std in the card of {path.name} must be above zero")
    red, green, blue = map(float, value)
    return red, green, blue


def make_network(card: Card, tensors: dict[str, Tensor], source: str) -> ReidNetwork:
    """Build the network of a card with the weights of a file, checked, in eval mode and float32.

    Raises:
        CheckpointError: the card cannot be built, the weights do not fit it, or one is not finite.
    """
    try:
        with torch.device("meta"):  # shapes without memory: a hostile card cannot make us allocate
            network = build_network(
                card.architecture,
                height=card.height,
                width=card.width,
                num_identities=card.num_identities,
                feature=card.feature,
                pooling=card.pooling,
            )
    except (UnknownArchitecture, ValueError) as error:
        raise CheckpointError(f"the card of {source} cannot be built: {error}") from error
    if network.embedding_size != card.embedding_size:
        raise CheckpointError(
            f"the card of {source} says {card.embedding_size} dimensions, {card.architecture} has "
            f"{network.embedding_size}"
        )
    wanted = network.state_dict()
    _compare_shapes(source, wanted, tensors)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{source} has a weight that is not finite in {name}")
    network.load_state_dict(
        {name: tensors[name].to(meta.dtype) for name, meta in wanted.items()}, assign=True
    )
    network.neck.bias.requires_grad_(False)
    return network.eval()


def _compare_shapes(source: str, wanted: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    if problems := shape_problems(wanted, tensors):
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{source} does not fit its card: {'; '.join(problems[:3])}{more}")


def shape_problems(wanted: dict[str, Tensor], tensors: dict[str, Tensor]) -> list[str]:
    """Say what is missing, extra or misshapen, in words."""
    missing = [f"{name} is missing" for name in wanted if name not in tensors]
    extra = [f"{name} does not belong there" for name in tensors if name not in wanted]
    misshapen = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    return missing + extra + misshapen
