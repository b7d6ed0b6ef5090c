"""The weights of a network for another input size.

Some weights belong to places of a grid: the relations of RGA's spatial part, the node features of its channel
part, the depthwise head of OSNet. Others belong to hidden units, whose number is a share of the places'. Both
are resized, each in its way; relations of channels to channels are of no grid and stay.

* Weights over places are an image of the grid (in the spatial relations two: the half that meets the
  transposed affinity, then the one that meets the affinity). It is interpolated and its sum kept, so that the
  response to a map that is smooth keeps its size.
* Hidden units have no order, and the mean of two of them means nothing. In the spatial part a larger grid
  adds fresh units that nothing reads yet (columns of zeros), a smaller one keeps those that are read most and
  moves the mean of the BatchNorm behind them by what the others gave on average.
* The channel part sums its units, never negative, in theta times phi and in the mean of the feature. There
  more units repeat the old ones in turn and fewer are every so-manieth, each counted by how many old ones it
  stands for: in scale and shift of the BatchNorm before, since ReLU lets a positive factor through.

So growing changes nothing but the grid, while shrinking drops units and asks for training.
"""

import math

import torch
from torch import Tensor, nn

from model.attention import RelationAttention, RelationAwareGlobalAttention
from model.layers import ReidNetwork

Grid = tuple[int, int]
State = dict[str, Tensor]


def bound_grids(network: ReidNetwork) -> dict[str, Grid]:
    """Return the height and width of the maps that modules are bound to, by the modules' names."""
    grids: dict[str, Grid] = {}
    for name, module in network.named_modules():
        if isinstance(module, RelationAwareGlobalAttention):
            grids[name] = module.grid[1:]
        elif name.startswith("pool.") and isinstance(module, nn.Conv2d) and module.groups > 1:
            grids[name] = module.weight.shape[2], module.weight.shape[3]
    return grids


def resize_relations(source: ReidNetwork, target: ReidNetwork) -> State:
    """Return the weights of one network, but for its classifier, for the grids of another.

    What is of the same size is the same tensor.

    Raises:
        ValueError: the two differ in more than the size of their grids.
    """
    state, wanted = _without_classifier(source), _without_classifier(target)
    grids, new_grids = bound_grids(source), bound_grids(target)
    if set(state) != set(wanted) or set(grids) != set(new_grids):
        raise ValueError("the networks have other layers")
    for name, grid in grids.items():
        module, new_grid = source.get_submodule(name), new_grids[name]
        if grid == new_grid:
            continue
        if not isinstance(module, RelationAwareGlobalAttention):
            state[f"{name}.weight"] = resize_maps(state[f"{name}.weight"], new_grid)
            continue
        for kind, part, resize in (
            ("spatial", module.spatial, _resize_spatial),
            ("channel", module.channel, _resize_channel),
        ):
            if part is not None:
                start = f"{name}.{kind}."
                theirs = {key.removeprefix(start): wanted[key] for key in wanted if key.startswith(start)}
                resized = resize(part, grid, new_grid, theirs)
                state |= {start + key: tensor for key, tensor in resized.items()}
    if any(tensor.shape != wanted[name].shape for name, tensor in state.items()):
        raise ValueError("the networks have layers of other sizes")
    return state


def resize_maps(maps: Tensor, grid: Grid) -> Tensor:
    """Interpolate weights over places (N, C, H, W) to another grid, bilinearly; the sum of each map stays.

    There is no blur against aliasing: weights are no picture, and the shipped head kept more of its
    embeddings without (cosine 0.90, not 0.79, at 224 x 112).

    >>> resize_maps(torch.ones(1, 1, 2, 2), (4, 2)).flatten().tolist()
    [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    """
    if tuple(maps.shape[2:]) == grid:
        return maps
    resized = nn.functional.interpolate(maps, grid, mode="bilinear", align_corners=False)
    resized = resized * (maps.shape[2:].numel() / resized.shape[2:].numel())
    lost = maps.sum(dim=(2, 3), keepdim=True) - resized.sum(dim=(2, 3), keepdim=True)
    return resized + lost / resized.shape[2:].numel()


def _without_classifier(network: ReidNetwork) -> State:
    return {
        name: tensor for name, tensor in network.state_dict().items() if not name.startswith("classifier.")
    }


def _resize_spatial(part: RelationAttention, grid: Grid, new_grid: Grid, wanted: State) -> State:
    """Resize relations (r, 2 x H x W), their r units, and the hidden units that are a share of r."""
    state: State = part.state_dict()
    if not part.has_relations:
        return state
    num_units, num_hidden = len(wanted["relate.weight"]), len(wanted["score.0.weight"])
    last = state["score.3.weight"].flatten(1)
    hidden, last_lost = _most_read(last, _means(state, "score.1"), num_hidden)
    first = state["score.0.weight"].flatten(1)[hidden]
    own, columns = first.tensor_split([int(part.has_feature)], dim=1)
    units, lost = _most_read(columns, _means(state, "relate_norm"), num_units)
    maps = state["relate.weight"][units].unflatten(1, (2, *grid))
    state |= _take_norm(state, "relate_norm", units) | _take_norm(state, "score.1", hidden)
    state |= {
        "relate.weight": resize_maps(maps, new_grid).flatten(1),
        "score.0.weight": torch.cat([own, _widened(columns[:, units], num_units)], dim=1)[..., None, None],
        "score.1.running_mean": state["score.1.running_mean"] - lost,
        "score.3.weight": _widened(last[:, hidden], num_hidden)[..., None, None],
        "score.4.running_mean": state["score.4.running_mean"] - last_lost,
    }
    grown = [
        name for name in state if name.startswith(("relate", "score.0", "score.1")) and state[name].dim()
    ]
    return state | {name: torch.cat([state[name], wanted[name][len(state[name]) :]]) for name in grown}


def _resize_channel(part: RelationAttention, grid: Grid, new_grid: Grid, wanted: State) -> State:
    """Resize the embeddings (parts x e, H x W, 1, 1) of channels, and their e units alike in every part."""
    state: State = part.state_dict()
    size = len(state["embed.weight"]) // part.num_parts
    new_size = len(wanted["embed.weight"]) // part.num_parts
    units, counts = _stand_ins(size, new_size)
    rows = torch.cat([units + number * size for number in range(part.num_parts)])
    factors = [counts.sqrt()] * part.num_parts
    if part.has_feature:
        factors[-1] = counts * (new_size / size)
    norm, factor = _take_norm(state, "embed_norm", rows), torch.cat(factors)
    maps = state["embed.weight"][rows].reshape(-1, 1, *grid)
    return {
        **state,
        "embed.weight": resize_maps(maps, new_grid).reshape(len(rows), -1, 1, 1),
        **norm,
        "embed_norm.weight": norm["embed_norm.weight"] * factor,
        "embed_norm.bias": norm["embed_norm.bias"] * factor,
    }


def _most_read(columns: Tensor, means: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return which units weigh most in columns (outputs, units), and what the others give on average."""
    ranked = (columns.norm(dim=0) * means).argsort(descending=True, stable=True)
    kept, dropped = ranked[:number].sort().values, ranked[number:]
    return kept, columns[:, dropped] @ means[dropped]


def _means(state: State, norm: str) -> Tensor:
    """Return the mean of each unit after BatchNorm and ReLU, if it was distributed normally before."""
    shift, scale = state[f"{norm}.bias"], state[f"{norm}.weight"].abs() + 1e-12
    ratio = shift / scale
    below = 0.5 * (1 + torch.erf(ratio / math.sqrt(2)))
    return shift * below + scale * torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)


def _widened(columns: Tensor, number: int) -> Tensor:
    return nn.functional.pad(columns, (0, number - columns.shape[1]))


def _stand_ins(num_old: int, num_new: int) -> tuple[Tensor, Tensor]:
    """Return for each new unit the old one it is, and how many old ones it stands for; these add up.

    >>> _stand_ins(2, 3)
    (tensor([0, 0, 1]), tensor([0.5000, 0.5000, 1.0000]))
    >>> _stand_ins(3, 2)
    (tensor([0, 2]), tensor([2., 1.]))
    """
    groups = torch.arange(max(num_old, num_new)) * min(num_old, num_new) // max(num_old, num_new)
    counts = groups.bincount()
    if num_new >= num_old:
        return groups, 1 / counts[groups]
    return counts.cumsum(0) - counts, counts.float()


def _take_norm(state: State, name: str, units: Tensor) -> State:
    """Return the tensors of a BatchNorm for units that are taken from its own."""
    names = [f"{name}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")]
    return {key: state[key][units] for key in names}
