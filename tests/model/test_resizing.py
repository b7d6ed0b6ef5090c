"""Resizing weights for another input size keeps sums, attention maps and embeddings."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from draw_people import draw_person
from model.architectures import build_network
from model.attention import RelationAwareGlobalAttention
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.layers import ReidNetwork
from model.preprocess import Preprocess
from model.resizing import Grid, bound_grids, resize_maps, resize_relations

CHANNELS = 32
BATCH = 32


def smooth(grid: Grid, seed: int, channels: int = CHANNELS) -> Tensor:
    """Return smooth feature maps. The same seed gives the same maps on every grid."""
    coarse = torch.randn(BATCH, channels, 4, 2, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, grid, mode="bicubic")


def attention_network(grid: Grid, seed: int = 0, **options: bool | str) -> ReidNetwork:
    """Return a network of one RGA module, with random scales and shifts, and statistics of smooth maps."""
    torch.manual_seed(seed)
    attention = RelationAwareGlobalAttention(CHANNELS, *grid, **options)  # type: ignore[arg-type]
    network = ReidNetwork(nn.Sequential(attention), CHANNELS, 1)
    for module in attention.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = 1.0  # the statistics are those of the last batch
    with torch.no_grad():
        attention.train()(smooth(grid, 1))
    return network.eval()


def resized(network: ReidNetwork, target: ReidNetwork) -> ReidNetwork:
    target.load_state_dict(resize_relations(network, target), strict=False)
    return target.eval()


def attention_maps(network: ReidNetwork, maps: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return the attention to places (N, 1, h, w), interpolated to a grid, and to channels (N, 1, C, 1)."""
    attention: Any = network.backbone[0]
    with torch.inference_mode():
        spatial: Tensor = attention.spatial(maps)
        nodes = maps.flatten(2).transpose(1, 2).unsqueeze(3)
        channel: Tensor = attention.channel(nodes)
    return nn.functional.interpolate(spatial, grid, mode="bilinear", antialias=True), channel


def difference(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> list[float]:
    return [float((a - b).abs().mean()) for a, b in zip(one, other, strict=True)]


@settings(max_examples=50, deadline=None)
@given(
    old=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    new=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 999),
)
def test_interpolation_keeps_the_sum_and_constant_weights_stay_constant(
    old: Grid, new: Grid, seed: int
) -> None:
    torch.manual_seed(seed)
    maps = torch.randn(3, 2, *old, dtype=torch.float64)
    torch.testing.assert_close(resize_maps(maps, new).sum(dim=(2, 3)), maps.sum(dim=(2, 3)))
    even = resize_maps(torch.full((1, 1, *old), 2.0), new)
    torch.testing.assert_close(even, torch.full((1, 1, *new), 2.0 * old[0] * old[1] / (new[0] * new[1])))


@pytest.mark.parametrize("name", ["rga_sc_all_tiny", "rga_sc_osnet", "rga_sc_feature_tiny", "plain_tiny"])
def test_weights_for_the_same_size_are_the_same_bits(name: str) -> None:
    torch.manual_seed(0)
    source, target = (build_network(name, height=64, width=32, num_identities=n) for n in (4, 5))
    state = resize_relations(source, target)
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in state.items())
    assert set(state) == {key for key in target.state_dict() if key != "classifier.weight"}


@pytest.mark.parametrize("grid", [(24, 8), (16, 12), (32, 16), (17, 9)])
@pytest.mark.parametrize("inputs", ["both", "relations", "feature"])
def test_a_larger_grid_makes_the_same_attention_of_smooth_maps(grid: Grid, inputs: str) -> None:
    network = attention_network((16, 8), inputs=inputs)
    larger = resized(network, attention_network(grid, seed=1, inputs=inputs))
    found = attention_maps(larger, smooth(grid, 2), (16, 8))
    wanted = attention_maps(network, smooth((16, 8), 2), (16, 8))
    spread = [float((maps - maps.mean()).abs().mean()) for maps in wanted]
    assert all(error < 0.15 * own for error, own in zip(difference(found, wanted), spread, strict=True))


def test_a_symmetric_module_is_resized_too() -> None:
    network = attention_network((16, 8), is_symmetric=True)
    larger = resized(network, attention_network((24, 8), seed=1, is_symmetric=True))
    found = attention_maps(larger, smooth((24, 8), 2), (16, 8))
    assert max(difference(found, attention_maps(network, smooth((16, 8), 2), (16, 8)))) < 0.03


def test_a_larger_grid_adds_units_that_the_next_layer_ignores() -> None:
    network = attention_network((16, 8))
    target = attention_network((24, 8), seed=1)
    state = resize_relations(network, target)
    columns = state["backbone.0.spatial.score.0.weight"]
    assert columns.shape[1] == 1 + 24
    old = network.state_dict()["backbone.0.spatial.score.0.weight"]
    assert torch.equal(columns[: len(old), :17], old)  # the old weights of the next layer are kept
    assert not columns[: len(old), 17:].any()
    unread = state["backbone.0.spatial.score.3.weight"]
    assert not unread[:, len(old) :].any()


def test_growing_and_shrinking_back_nearly_restores_the_attention() -> None:
    network = attention_network((16, 8))
    there = resized(network, attention_network((32, 16), seed=1))
    back = resized(there, attention_network((16, 8), seed=2))
    maps = smooth((16, 8), 2)
    wanted = attention_maps(network, maps, (16, 8))
    assert max(difference(attention_maps(back, maps, (16, 8)), wanted)) < 0.03
    fresh = attention_maps(attention_network((16, 8), seed=3), maps, (16, 8))
    assert min(difference(fresh, wanted)) > 0.1


def test_a_smaller_grid_is_nearer_to_the_old_attention_than_a_fresh_network() -> None:
    errors, fresh_errors = [], []
    for seed in range(4):
        network = attention_network((16, 8), seed)
        wanted = attention_maps(network, smooth((16, 8), 2), (16, 8))
        target = attention_network((12, 6), 10 + seed)
        fresh_errors.append(difference(attention_maps(target, smooth((12, 6), 2), (16, 8)), wanted))
        smaller = attention_maps(resized(network, target), smooth((12, 6), 2), (16, 8))
        errors.append(difference(smaller, wanted))
    for error, fresh in zip(torch.tensor(errors).mean(0), torch.tensor(fresh_errors).mean(0), strict=True):
        assert error < 0.75 * fresh


@pytest.mark.parametrize(("height", "width"), [(320, 160), (384, 128)])
def test_the_shipped_network_recognises_people_at_another_size(height: int, width: int) -> None:
    shipped = load_checkpoint(DEFAULT_CHECKPOINT)
    card = shipped.card
    torch.manual_seed(0)
    build = {"height": height, "width": width, "num_identities": 1}
    larger = resized(shipped.network, build_network("rga_sc_osnet", **build))  # type: ignore[arg-type]
    # a rival for comparison: weights of places are fresh, all others are those that ship
    fresh = build_network("rga_sc_osnet", **build)  # type: ignore[arg-type]
    over_places = ("relate.weight", "channel.embed.weight", "pool.0.weight")
    kept = {k: v for k, v in larger.state_dict().items() if not k.endswith(over_places)}
    fresh.load_state_dict(kept, strict=False)
    crops = [draw_person(person, 1) for person in range(1, 9)]
    with torch.inference_mode():
        original = nn.functional.normalize(shipped.network(shipped.preprocess(crops)))
        images = Preprocess(height, width)(crops)
        ours, theirs = (
            nn.functional.normalize(network.eval()(images)) @ original.T for network in (larger, fresh)
        )
        back = resized(
            larger,
            build_network("rga_sc_osnet", **build | {"height": card.height, "width": card.width}),  # type: ignore[arg-type]
        )
        returned = nn.functional.normalize(back(shipped.preprocess(crops)))
    assert float((returned * original).sum(dim=1).min()) > 0.9
    same = ours.diagonal()
    assert float(same.min()) > 0.8
    assert float(same.min()) > float((ours - torch.diag(same)).max()) + 0.1
    assert float(theirs.diagonal().max()) < 0.3


def test_networks_that_differ_in_more_than_their_grids_are_refused() -> None:
    source = build_network("rga_sc_tiny", height=64, width=32, num_identities=1)
    for name in ("rga_s_tiny", "plain_tiny", "rga_sc_feature_tiny", "rga_sc_symmetric_tiny", "rga_sc_osnet"):
        target = build_network(name, height=128, width=64, num_identities=1)
        with pytest.raises(ValueError, match="layers"):
            resize_relations(source, target)


def test_bound_grids_names_the_modules_that_depend_on_a_grid() -> None:
    network = build_network("rga_sc_osnet", height=256, width=128, num_identities=1)
    assert bound_grids(network) == {"backbone.4": (16, 8), "pool.0": (16, 8)}
    assert bound_grids(build_network("resnet50", height=64, width=32, num_identities=1)) == {}
