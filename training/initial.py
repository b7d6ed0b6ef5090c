"""Weights to start from: a checkpoint of ours, a torchvision state dict, or ImageNet weights."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights

from model.attention import RelationAttention, RelationAwareGlobalAttention
from model.checkpoint import load_checkpoint
from model.layers import ReidNetwork
from training.osnet_weights import read_osnet_weights


class InitialWeightsError(Exception):
    """Weights to start from cannot be had or do not fit; the message says what to do."""


@dataclass(frozen=True)
class Initial:
    """A state dict to start from.

    ``version`` is set when it is a checkpoint of ours; ``has_head`` when it is a whole network that makes
    embeddings, not a trunk alone. RGA modules put into a whole network begin as nearly the identity.
    """

    source: str
    tensors: dict[str, Tensor]
    version: str | None = None
    has_head: bool = False

    def load_into(self, network: ReidNetwork) -> None:
        """Copy what fits into a network: everything but the classifier, or the backbone without RGA.

        Raises:
            InitialWeightsError: these are weights of another network.
        """
        own = network.state_dict()
        if self.version is not None:
            chosen = {
                name: tensor for name, tensor in self.tensors.items() if not name.startswith("classifier.")
            }
            wanted = {name: tensor for name, tensor in own.items() if not name.startswith("classifier.")}
            if {k: v.shape for k, v in chosen.items()} != {k: v.shape for k, v in wanted.items()}:
                raise InitialWeightsError(f"{self.source} is a network of another architecture or input size")
        else:
            chosen = self._by_order(_names_without_attention(network, has_head=self.has_head), own)
        network.load_state_dict(chosen, strict=False)
        if self.has_head:
            start_as_identity(network)

    def _by_order(self, names: list[str], own: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pair tensors by their order: torchvision renamed its layers, but never reordered them."""
        head = () if self.has_head else ("classifier.", "fc.")
        tensors = [
            tensor
            for name, tensor in self.tensors.items()
            if not name.startswith(head) and not name.endswith("num_batches_tracked")
        ]
        if [tensor.shape for tensor in tensors] != [own[name].shape for name in names]:
            raise InitialWeightsError(
                f"{self.source} does not hold the weights of this backbone: {len(tensors)} tensors, "
                f"{len(names)} expected, or of other shapes"
            )
        return dict(zip(names, tensors, strict=True))


def find_initial(source: str, architecture: str) -> Initial | None:
    """Read what ``--init`` names: a file, ``imagenet`` or ``none``.

    Raises:
        InitialWeightsError: the file is absent or unreadable, or there is no network to download with.
    """
    if source == "none":
        return None
    if source == "imagenet":
        return Initial("torchvision's ImageNet weights", _download(architecture))
    path = Path(source)
    if path.suffix == ".safetensors":
        checkpoint = load_checkpoint(path)
        return Initial(source, checkpoint.network.state_dict(), checkpoint.version)
    if path.suffix == ".xml":
        return Initial(source, _read_graph(path), has_head=True)
    try:
        state: Any = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise InitialWeightsError(f"{source} cannot be read as a torch state dict: {error}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InitialWeightsError(f"{source} holds no state dict of tensors")
    return Initial(source, state)


def _read_graph(path: Path) -> dict[str, Tensor]:
    try:
        return read_osnet_weights(path)
    except (RuntimeError, ValueError) as error:
        raise InitialWeightsError(f"{path} cannot be used: {error}") from error


def start_as_identity(network: ReidNetwork) -> None:
    """Let every attention map begin at sigmoid(4) = 0.98 everywhere, whatever the relations say."""
    for module in network.modules():
        if isinstance(module, RelationAttention):
            last: Any = module.score[-1]
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, 4.0)


def _names_without_attention(network: ReidNetwork, *, has_head: bool) -> list[str]:
    parts = ("backbone.", "pool.", "neck.", "activation.") if has_head else ("backbone.",)
    attention = tuple(
        f"backbone.{name}."
        for name, module in network.backbone.named_modules()
        if isinstance(module, RelationAwareGlobalAttention)
    )
    return [
        name
        for name in network.state_dict()
        if name.startswith(parts)
        and not name.startswith(attention)
        and not name.endswith("num_batches_tracked")
    ]


def _download(architecture: str) -> dict[str, Tensor]:
    weights: Any = {
        "mobilenet_v2": MobileNet_V2_Weights.IMAGENET1K_V2,
        "resnet50": ResNet50_Weights.IMAGENET1K_V1,  # those that the RGA authors started from
    }
    chosen = [value for name, value in weights.items() if architecture.endswith(name)]
    if not chosen:
        raise InitialWeightsError(f"torchvision has no ImageNet weights for {architecture}: use --init none")
    try:
        tensors: dict[str, Tensor] = chosen[0].get_state_dict(progress=True)
    except (URLError, OSError) as error:
        raise InitialWeightsError(
            f"torchvision could not download its ImageNet weights ({error}). Copy its .pth file from a "
            "machine that has it and give that as --init FILE, or start from nothing with --init none"
        ) from error
    return tensors
