"""Weights to start from: a checkpoint of ours, a torchvision state dict, or ImageNet weights."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights

from model.attention import RelationAwareGlobalAttention
from model.checkpoint import load_checkpoint
from model.layers import ReidNetwork


class InitialWeightsError(Exception):
    """Weights to start from cannot be had or do not fit; the message says what to do."""


@dataclass(frozen=True)
class Initial:
    """A state dict to start from; ``version`` is set when it is a checkpoint of ours."""

    source: str
    tensors: dict[str, Tensor]
    version: str | None = None

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
            chosen = self._by_order(_trunk_names(network), own)
        network.load_state_dict(chosen, strict=False)

    def _by_order(self, names: list[str], own: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pair tensors by their order: torchvision renamed its layers, but never reordered them."""
        tensors = [
            tensor
            for name, tensor in self.tensors.items()
            if not name.startswith(("classifier.", "fc.")) and not name.endswith("num_batches_tracked")
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
    try:
        state: Any = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise InitialWeightsError(f"{source} cannot be read as a torch state dict: {error}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InitialWeightsError(f"{source} holds no state dict of tensors")
    return Initial(source, state)


def _trunk_names(network: ReidNetwork) -> list[str]:
    attention = tuple(
        f"backbone.{name}."
        for name, module in network.backbone.named_modules()
        if isinstance(module, RelationAwareGlobalAttention)
    )
    return [
        name
        for name in network.state_dict()
        if name.startswith("backbone.")
        and not name.startswith(attention)
        and not name.endswith("num_batches_tracked")
    ]


def _download(architecture: str) -> dict[str, Tensor]:
    weights: Any = {
        "mobilenet_v2": MobileNet_V2_Weights.IMAGENET1K_V2,
        "resnet50": ResNet50_Weights.IMAGENET1K_V2,
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
