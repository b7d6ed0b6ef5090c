"""Import of checkpoints that the code of the RGA paper's authors has trained (ResNet-50).

An RGA module of the authors has the same weights as `model/attention.py`, with three differences:

* The authors have three convolutions for theta, phi and the embedding of the feature. We have one.
* The authors embed relations by a 1 x 1 convolution. We have a linear layer.
* The tensors have other names.

The columns of the relation weights have the same order: the first half is for the transposed affinity.
"""

from pathlib import Path

import torch
from torch import Tensor

from model.architectures import build_network, without_weights
from model.card import Card
from model.card_text import to_text
from model.checkpoint import make_network, save_checkpoint, shape_problems
from model.errors import CheckpointError
from model.files import describe_file
from model.interop.state_dicts import read_state_dict

BRANCHES = {"rgasc": "rga_sc_resnet50", "rgas": "rga_s_resnet50", "rgac": "rga_c_resnet50"}
"""The name of each network in the authors' code -> the name in ARCHITECTURES."""

HEIGHT, WIDTH = 256, 128
NUM_PROBLEMS_TOLD = 10

_HEAD = {"neck": "feat_bn", "classifier": "cls"}
_EMBEDDINGS = ("theta", "phi", "gx")
_LAYERS = {
    "embed": (_EMBEDDINGS, "0."),
    "embed_norm": (_EMBEDDINGS, "1."),
    "relate": (("gg",), "0."),
    "relate_norm": (("gg",), "1."),
    "score": (("W",), ""),
}


def import_official(path: str | Path, out: str | Path, *, branch: str, feature: str = "pooled") -> str:
    """Import a checkpoint of the authors' code. Nothing of the file is run.

    Args:
        path: the checkpoint of the authors, .pth.tar.
        out: the checkpoint to write; the file must not exist.
        branch: the network, a key of BRANCHES.
        feature: ``pooled`` or ``bn``, as in ``build_network``. The authors' code evaluates both and reports
            ``pooled`` first.

    Returns:
        The version of the checkpoint, 12 hex digits.

    Raises:
        CheckpointError: the file cannot be read or does not hold the network ``branch``, or ``out`` exists or
            cannot be written.
    """
    path, out = Path(path), Path(out)
    if out.exists():
        raise CheckpointError(f"{out} is there already: remove it, or give another --out")
    tensors = read_state_dict(path)
    identities = tensors.get("cls.weight")
    num_identities = max(1, len(identities)) if identities is not None and identities.dim() else 1
    ours = _state(branch, num_identities)
    if problems := shape_problems(_wanted(ours), tensors):
        others = (other for other in BRANCHES if other != branch)
        fitting = [o for o in others if not shape_problems(_wanted(_state(o, num_identities)), tensors)]
        raise CheckpointError(f"{path} is not the authors' {branch}{_in_words(problems, fitting)}")
    card = Card(
        architecture=BRANCHES[branch],
        height=HEIGHT,
        width=WIDTH,
        embedding_size=2048,
        num_identities=num_identities,
        feature=feature,
        recipe=to_text(f"{describe_file(path)} of the RGA authors' code, {branch}"),
    )
    network = make_network(card, _renamed(ours, tensors), path.name)
    try:
        return save_checkpoint(out, network, card)
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written: {error.strerror or error}") from error


def _state(branch: str, num_identities: int) -> dict[str, Tensor]:
    """Return the state dict of our network on the device meta: shapes without memory."""
    with without_weights():
        network = build_network(BRANCHES[branch], height=HEIGHT, width=WIDTH, num_identities=num_identities)
    return network.state_dict()


def _wanted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict that the authors' network must have, for ours. Both are on the device meta."""
    wanted: dict[str, Tensor] = {}
    for name, ours in state.items():
        theirs = _their_names(name)
        convolution = ours[:, :, None, None] if name.endswith("relate.weight") else ours
        parts = convolution.chunk(len(theirs)) if ours.dim() else [ours] * len(theirs)
        wanted |= dict(zip(theirs, parts, strict=True))
    return wanted


def _renamed(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the authors' tensors with the names and shapes of our network.

    Args:
        ours: the state dict of our network, for names and shapes.
        theirs: the state dict of the authors.
    """
    renamed = {}
    for name, like in ours.items():
        parts = [theirs[one] for one in _their_names(name)]
        renamed[name] = torch.cat(parts).reshape(like.shape) if like.dim() else parts[0]
    return renamed


def _their_names(name: str) -> list[str]:
    """Return the names of the authors' tensors that together make one tensor of ours.

    >>> _their_names("neck.bias"), _their_names("backbone.0.1.weight"), _their_names("backbone.3.0.bn1.bias")
    (['feat_bn.bias'], ['backbone.bn1.weight'], ['backbone.layer2.0.bn1.bias'])
    >>> _their_names("backbone.2.spatial.relate_norm.bias"), _their_names("backbone.8.channel.score.3.weight")
    (['backbone.rga_att1.gg_spatial.1.bias'], ['backbone.rga_att4.W_channel.3.weight'])
    """
    top, _, rest = name.partition(".")
    if top in _HEAD:
        return [f"{_HEAD[top]}.{rest}"]
    stage, _, rest = rest.partition(".")
    number, is_trunk = divmod(int(stage), 2)
    if stage == "0":
        layer, _, kind = rest.partition(".")
        return [f"backbone.{('conv1', 'bn1')[int(layer)]}.{kind}"]
    if is_trunk:
        return [f"backbone.layer{number + 1}.{rest}"]
    kind, layer, rest = rest.split(".", 2)
    firsts, position = _LAYERS[layer]
    return [f"backbone.rga_att{number}.{first}_{kind}.{position}{rest}" for first in firsts]


def _in_words(problems: list[str], fitting: list[str]) -> str:
    more = f" and {len(problems) - NUM_PROBLEMS_TOLD} more" if len(problems) > NUM_PROBLEMS_TOLD else ""
    hint = f", but their {fitting[0]}: give --branch {fitting[0]}" if fitting else f" at {HEIGHT} x {WIDTH}"
    return f"{hint}: {'; '.join(problems[:NUM_PROBLEMS_TOLD])}{more}"
