"""Weights to start from: a checkpoint of ours, a torchvision state dict, or ImageNet weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights

from model.attention import RelationAttention, RelationAwareGlobalAttention
from model.checkpoint import Checkpoint, load_checkpoint
from model.errors import CheckpointError
from model.interop.state_dicts import read_state_dict
from model.layers import ReidNetwork
from model.resizing import Grid, bound_grids, resize_relations
from training.weights.osnet import read_osnet_weights


class InitialWeightsError(Exception):
    """Initial weights cannot be read or downloaded, or do not fit; the message says what to do."""


@dataclass(frozen=True)
class Initial:
    """Initial weights of a network.

    Attributes:
        source: a file or a description, for error messages.
        tensors: the state dict.
        checkpoint: the checkpoint of ours that holds the weights, or None.
        has_head: the weights are of a whole network without RGA modules, not of a trunk alone. The RGA
            modules that are added to the network then start as nearly the identity.
        resizes: accept a checkpoint of another input size, and interpolate its relation weights.
    """

    source: str
    tensors: dict[str, Tensor]
    checkpoint: Checkpoint | None = None
    has_head: bool = False
    resizes: bool = False

    @property
    def version(self) -> str | None:
        """The version of the checkpoint, or None."""
        return self.checkpoint.version if self.checkpoint else None

    def load_into(self, network: ReidNetwork) -> None:
        """Copy the weights into a network.

        A checkpoint gives all weights but the classifier's. Other weights go into everything without RGA
        modules: into the backbone, and with ``has_head`` also into pooling, neck and activation.

        Raises:
            InitialWeightsError: the weights are of another network, or of another input size.
        """
        if self.checkpoint is not None:
            chosen = self._from_checkpoint(self.checkpoint, network)
        else:
            names = _names_without_attention(network, has_head=self.has_head)
            chosen = self._by_order(names, network.state_dict())
        network.load_state_dict(chosen, strict=False)
        if self.has_head:
            start_as_identity(network)

    def _from_checkpoint(self, checkpoint: Checkpoint, network: ReidNetwork) -> dict[str, Tensor]:
        try:
            resized = resize_relations(checkpoint.network, network)
        except ValueError as error:
            raise InitialWeightsError(f"{self.source} is of another architecture: {error}") from error
        theirs, wanted = bound_grids(checkpoint.network), bound_grids(network)
        if theirs != wanted and not self.resizes:
            card = checkpoint.card
            raise InitialWeightsError(
                f"{self.source} was made for {card.height} x {card.width} pixels, and its relation weights "
                f"depend on the grid: {_in_words(theirs)} places in it, {_in_words(wanted)} in this run; "
                "give --resize-relations to interpolate them"
            )
        return resized

    def _by_order(self, names: list[str], own: dict[str, Tensor]) -> dict[str, Tensor]:
        """Match tensors with names by order: torchvision's names differ from ours, the order is the same."""
        head = () if self.has_head else ("classifier.", "fc.")
        tensors = [
            tensor
            for name, tensor in self.tensors.items()
            if not name.startswith(head) and not name.endswith("num_batches_tracked")
        ]
        if len(tensors) != len(names):
            raise InitialWeightsError(
                f"{self.source} does not hold the weights of this backbone: {len(tensors)} tensors, "
                f"{len(names)} expected"
            )
        paired = dict(zip(names, tensors, strict=True))
        for name, tensor in paired.items():
            if tensor.shape != own[name].shape:
                raise InitialWeightsError(
                    f"{self.source} does not hold the weights of this backbone at this input size: "
                    f"{tuple(tensor.shape)} for {name}, where {tuple(own[name].shape)} is expected"
                )
        return paired


def find_initial(source: str, architecture: str, *, resizes: bool = False) -> Initial | None:
    """Return the initial weights that ``--init`` names, or None.

    Args:
        source: a file, ``imagenet`` (torchvision's weights of the trunk) or ``none``.
        architecture: of the network that is trained.
        resizes: as in `Initial`.

    Raises:
        CheckpointError: a .safetensors file cannot be read.
        InitialWeightsError: another file cannot be read, or torchvision's weights cannot be downloaded.
    """
    if source == "none":
        return None
    if source == "imagenet":
        return Initial("torchvision's ImageNet weights", _download(architecture))
    path = Path(source)
    if path.suffix == ".safetensors":
        checkpoint = load_checkpoint(path)
        return Initial(source, checkpoint.network.state_dict(), checkpoint, resizes=resizes)
    if path.suffix == ".xml":
        return Initial(source, _read_graph(path), has_head=True)
    try:
        return Initial(source, read_state_dict(path))
    except CheckpointError as error:
        raise InitialWeightsError(str(error)) from error


def _read_graph(path: Path) -> dict[str, Tensor]:
    try:
        return read_osnet_weights(path)
    except (RuntimeError, ValueError) as error:
        raise InitialWeightsError(f"{path} cannot be used: {error}") from error


def start_as_identity(network: ReidNetwork) -> None:
    """Make every attention map constant at sigmoid(4) = 0.98, so that the RGA modules change little."""
    for module in network.modules():
        if isinstance(module, RelationAttention):
            last: Any = module.score[-1]
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, 4.0)


def _in_words(grids: dict[str, Grid]) -> str:
    """Return the different sizes of the grids as text, such as 64 x 32, 32 x 16 and 16 x 8."""
    names = list(dict.fromkeys(f"{height} x {width}" for height, width in grids.values()))
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


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
        "resnet50": ResNet50_Weights.IMAGENET1K_V1,  # the weights that the RGA authors used
    }
    chosen = [value for name, value in weights.items() if architecture.endswith(name)]
    if not chosen:
        raise InitialWeightsError(f"torchvision has no ImageNet weights for {architecture}: use --init none")
    try:
        tensors: dict[str, Tensor] = chosen[0].get_state_dict(progress=True)
    except (URLError, OSError) as error:
        raise InitialWeightsError(
            f"torchvision could not download its ImageNet weights ({error}). Copy its .pth file from a "
            "machine that has it and give the copy as --init FILE, or train from scratch with --init none"
        ) from error
    return tensors


def freeze_all_but_attention(network: ReidNetwork) -> None:
    """Freeze all weights but those of the RGA modules and the classifier."""
    network.requires_grad_(False)
    network.classifier.requires_grad_(True)
    for module in network.modules():
        if isinstance(module, RelationAwareGlobalAttention):
            module.requires_grad_(True)
