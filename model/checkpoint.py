"""Checkpoints: one safetensors file holds the weights of a network, and in its header the card.

The version of a checkpoint is the first 12 hex digits of the SHA-256 of the file. Nothing is unpickled.
Weights may be stored in fp16; loaded weights are float32. A foreign network is stored as the two files of an
OpenVINO IR, each of them a tensor of bytes.
"""

import hashlib
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from model.architectures import build_network, without_weights
from model.card import FOREIGN, Card, FieldTwice, no_field_twice, parse_card, salvage_card
from model.errors import CheckpointError, UnknownArchitecture
from model.files import write_atomically
from model.interop.graphs import GRAPH, WEIGHTS, ForeignNetwork, make_foreign
from model.kinds import FIRST_BYTES, kind_of
from model.layers import ReidNetwork
from model.preprocess import Preprocess

DEFAULT_CHECKPOINT = Path(__file__).parent / "weights" / "default.safetensors"
"""The checkpoint that ships; weights/MODEL_CARD.md describes its network."""

MAX_CHECKPOINT_BYTES = 1 << 30
MAX_HEADER_BYTES = 8 << 20
MAX_HEADER_DEPTH = 8
"""How deep the JSON of a header may be nested; safetensors writes 3 levels."""

MAX_METADATA = 16
MAX_TOLD = 200
_STRINGS_AND_BRACKETS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
"""Possessive, because else each backslash of a string would keep 60 bytes of memory to come back to."""
CARD_KEY = "card"
"""The name of the card in the metadata of the safetensors header."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Args:
        contents: a network in torch, in eval mode, or a foreign network.
        card: the card of the network.
        version: 12 hex digits, from the content of the file.
    """

    contents: ReidNetwork | ForeignNetwork
    card: Card
    version: str

    @property
    def network(self) -> ReidNetwork:
        """The network in torch.

        Raises:
            CheckpointError: the checkpoint holds a foreign network.
        """
        if isinstance(self.contents, ForeignNetwork):
            raise CheckpointError(
                f"{self.version} ({self.card.recipe}) is a foreign network, which only OpenVINO runs: "
                "it can be served and evaluated, but it cannot be trained, be a teacher, or show attention"
            )
        return self.contents

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing that the network needs."""
        return Preprocess(self.card.height, self.card.width, self.card.mean, self.card.std)


def load_checkpoint(path: str | Path, version: str | None = None) -> Checkpoint:
    """Read a checkpoint, check its card and its weights, and build its network.

    Nothing of the file is run.

    Args:
        path: a file of at most 1 GiB.
        version: the version that the file must have, for a file that was checked before.

    Returns:
        The checkpoint. A network in torch is on the CPU, in float32 and in eval mode. A foreign network has
        been read by OpenVINO and is not compiled.

    Raises:
        CheckpointError: the file is absent, too large, torn or of another kind, does not fit its card, or has
            another version.
    """
    path = Path(path)
    content = _read(path)
    if version is not None and (found := _version(content)) != version:
        raise CheckpointError(f"{path.name} has changed on the disk: its version is now {found}")
    card = _read_card(path, content) if version is None else _read_known_card(path, content)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path.name} is not a readable safetensors file: {_told(str(error))}"
        ) from error
    if card.architecture != FOREIGN:
        return Checkpoint(make_network(card, tensors, path.name), card, _version(content))
    try:
        foreign = make_foreign(tensors, card.height, card.width, card.embedding_size)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name} cannot be used: {error}") from error
    return Checkpoint(foreign, card, _version(content))


def save_checkpoint(path: str | Path, network: nn.Module, card: Card, *, half: bool = False) -> str:
    """Write a network and its card to a file. A crash leaves the old file or the new file.

    Args:
        path: the file to write; an existing file is replaced.
        network: any module; ``load_checkpoint`` reads those that ``build_network`` builds.
        card: what is known of the network. The card is not checked.
        half: store floating-point weights in fp16, which halves the size of the file.

    Returns:
        The version, 12 hex digits. The same weights with the same card always have the same version.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    return _write(path, tensors, card)


def save_foreign(path: str | Path, graph: bytes, weights: bytes, card: Card) -> str:
    """Write a foreign network and its card to a file, as ``save_checkpoint`` does.

    Args:
        path: the file to write; an existing file is replaced.
        graph: content of the .xml of an OpenVINO IR.
        weights: content of the .bin of the same IR.
        card: what is known of the network. The card is not checked.

    Returns:
        The version, 12 hex digits.

    Raises:
        OSError: the file cannot be written.
    """
    contents = {GRAPH: graph, WEIGHTS: weights}
    tensors = {name: torch.from_numpy(np.array(bytearray(part))) for name, part in contents.items()}
    return _write(path, tensors, card)


def _write(path: str | Path, tensors: dict[str, Tensor], card: Card) -> str:
    content = save(tensors, metadata={CARD_KEY: json.dumps(card.to_dict(), sort_keys=True)})
    write_atomically(path, content)
    return _version(content)


def checkpoint_version(path: str | Path) -> str:
    """Return the version of a checkpoint file, 12 hex digits. The content of the file is not checked.

    Raises:
        CheckpointError: the file is absent or too large.
    """
    return _version(_read(Path(path)))


def read_card(path: str | Path) -> Card:
    """Read and check the card of a checkpoint file. The weights are not checked.

    Raises:
        CheckpointError: the file is absent or too large, or its card is absent or refused.
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
    """Read the card of a file, and check the whole header.

    Raises:
        CheckpointError: the file is torn or of another kind, the header has more than a checkpoint needs, or
            the card is refused.
    """
    header = _read_header(path, content)
    try:
        metadata = json.loads(header, object_pairs_hook=no_field_twice)["__metadata__"]
        text = metadata[CARD_KEY]
    except FieldTwice as error:
        raise CheckpointError(f"the header of {path.name} is refused: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path.name} has no reid-gallery card in a safetensors header") from error
    if not isinstance(text, str):
        raise CheckpointError(f"{path.name} has no reid-gallery card in a safetensors header")
    card = parse_card(text, path.name)
    if len(metadata) > MAX_METADATA or len(header) - len(text) > MAX_HEADER_BYTES // 4:
        raise CheckpointError(f"the header of {path.name} has more in it than tensors and a card")
    return card


def _read_known_card(path: Path, content: bytes) -> Card:
    """Read the card of a file that was registered, perhaps by rules that were laxer.

    Raises:
        CheckpointError: a field is wrong that the network needs.
    """
    try:
        values = json.loads(json.loads(_read_header(path, content))["__metadata__"][CARD_KEY])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path.name} has no reid-gallery card in a safetensors header") from error
    card, fault = salvage_card(values, path.name)
    if card is None:
        raise CheckpointError(fault)
    return card


def _read_header(path: Path, content: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8].ljust(8, b"\xff"))
    if length > MAX_HEADER_BYTES or content[8:9] not in (b"{", b""):
        is_torn = 0 < len(content) < 8
        kind = "is truncated" if is_torn else kind_of(content[:FIRST_BYTES])
        raise CheckpointError(f"{path.name} {kind}")
    if len(content) < 8 + length:
        raise CheckpointError(f"{path.name} is truncated inside its header")
    header = content[8 : 8 + length]
    if (depth := _depth(header)) > MAX_HEADER_DEPTH:
        raise CheckpointError(f"{path.name} has no reid-gallery card: its header is nested {depth} deep")
    return header


def _depth(header: bytes) -> int:
    """Return how deep JSON is nested, or the first depth above MAX_HEADER_DEPTH.

    >>> _depth(b'{"a": [1, 2], "b": "[[["}')
    2
    """
    depth = deepest = 0
    for found in _STRINGS_AND_BRACKETS.finditer(header):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(found[0], 0)
        deepest = max(deepest, depth)
        if deepest > MAX_HEADER_DEPTH:
            break
    return deepest


def make_network(card: Card, tensors: dict[str, Tensor], source: str) -> ReidNetwork:
    """Build the network that a card describes, with given weights.

    Args:
        card: the card of the network.
        tensors: the weights by name, on the CPU.
        source: name of the file, for the message of an error.

    Returns:
        The network, on the CPU, in float32 and in eval mode.

    Raises:
        CheckpointError: the card describes no network that exists, the weights do not fit the card, or a
            weight is not finite.
    """
    try:
        with without_weights():  # no memory, because a hostile card may ask for any size
            network = build_network(
                card.architecture,
                height=card.height,
                width=card.width,
                num_identities=card.num_identities,
                feature=card.feature,
                pooling=card.pooling,
            )
    except (UnknownArchitecture, ValueError) as error:
        raise CheckpointError(f"the card of {source} describes no network: {error}") from error
    if network.embedding_size != card.embedding_size:
        raise CheckpointError(
            f"the card of {source} says {card.embedding_size} dimensions, but {card.architecture} has "
            f"{network.embedding_size}"
        )
    wanted = network.state_dict()
    _compare_shapes(source, wanted, tensors)
    network.load_state_dict(
        {name: _weights(source, name, tensors[name], meta.dtype) for name, meta in wanted.items()},
        assign=True,
    )
    network.neck.bias.requires_grad_(False)
    return network.eval()


def _weights(source: str, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in the type that the network needs.

    Raises:
        CheckpointError: a number is complex or not finite, or is a variance below zero.
    """
    if tensor.is_complex():
        raise CheckpointError(f"{source} has complex numbers in {name}")
    weights = tensor.to(dtype)
    if not torch.isfinite(weights).all():  # after the conversion, because torch cannot ask it of each type
        raise CheckpointError(f"{source} has a weight that is not finite in {name}")
    if name.endswith("running_var") and (weights < 0).any():
        raise CheckpointError(f"{source} has a variance below zero in {name}")
    return weights


def _compare_shapes(source: str, wanted: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    if problems := shape_problems(wanted, tensors):
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{source} does not fit its card: {'; '.join(problems[:3])}{more}")


def shape_problems(wanted: dict[str, Tensor], tensors: dict[str, Tensor]) -> list[str]:
    """Say in which tensors a state dict differs from the one that is wanted.

    Returns:
        A phrase for each tensor that is missing, that does not belong there, or that has another shape.
    """
    missing = [f"{name} is missing" for name in wanted if name not in tensors]
    extra = [f"{_told(name)} does not belong there" for name in tensors if name not in wanted]
    misshapen = [
        f"{name} is {_told(str(tuple(tensors[name].shape)))}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    return missing + extra + misshapen


def _told(text: str) -> str:
    """Return a text of a file for a message: escaped, and not long."""
    return ascii(text[:MAX_TOLD])[1:-1][:MAX_TOLD]
