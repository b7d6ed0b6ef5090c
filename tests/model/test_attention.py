"""RGA agrees with the numbers of the authors' code, and with a twin that builds the full affinity matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from model.attention import RelationAwareGlobalAttention
from references import DATA, FullAffinityAttention, port_authors_weights

SETTINGS = {"rga_s": (True, False), "rga_c": (False, True), "rga_sc": (True, True)}


def read_vectors(setting: str) -> tuple[RelationAwareGlobalAttention, dict[str, Tensor]]:
    tensors = load_file(DATA / "rga_module_vectors.safetensors")
    vectors = {
        name.removeprefix(f"{setting}/"): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{setting}/")
    }
    spatial, channel = SETTINGS[setting]
    attention = RelationAwareGlobalAttention(64, 16, 8, spatial=spatial, channel=channel)
    theirs = {k.removeprefix("state_dict/"): v for k, v in vectors.items() if k.startswith("state_dict/")}
    attention.load_state_dict(port_authors_weights(theirs), strict=False)
    loaded = set(port_authors_weights(theirs))
    assert {name for name in attention.state_dict() if "num_batches" not in name} <= loaded
    return attention, vectors


@pytest.mark.parametrize("setting", SETTINGS)
def test_outputs_agree_with_the_authors_code(setting: str) -> None:
    attention, vectors = read_vectors(setting)
    evaluated = attention.eval()(vectors["input"])
    trained = attention.train()(vectors["input"])
    torch.testing.assert_close(evaluated, vectors["output_eval"], atol=1e-5, rtol=0)
    torch.testing.assert_close(trained, vectors["output_train"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("setting", SETTINGS)
def test_gradients_agree_with_the_authors_code(setting: str) -> None:
    attention, vectors = read_vectors(setting)
    x = vectors["input"].clone().requires_grad_()
    (attention.train()(x) * vectors["probe"]).sum().backward()
    theirs = {k.removeprefix("grad_train/"): v for k, v in vectors.items() if k.startswith("grad_train/")}
    expected = port_authors_weights(theirs)
    found = {name: parameter.grad for name, parameter in attention.named_parameters()}
    assert set(found) == set(expected)
    scale = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in found.items():
        assert gradient is not None
        # a bias before a BatchNorm has a gradient of 0, so its error is compared with the largest gradient
        error = float((gradient - expected[name]).norm())
        assert error <= 1e-4 * max(float(expected[name].norm()), 1e-2 * scale), name
    assert x.grad is not None
    theirs_input = vectors["grad_input_train"]
    assert float((x.grad - theirs_input).norm()) <= 1e-4 * float(theirs_input.norm())


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 40),
    height=st.integers(1, 9),
    width=st.integers(1, 7),
    spatial=st.booleans(),
    reduction=st.integers(1, 9),
    squeeze=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
def test_any_shape_agrees_with_the_full_affinity_twin(
    channels: int, height: int, width: int, spatial: bool, reduction: int, squeeze: int, seed: int
) -> None:
    torch.manual_seed(seed)
    attention = RelationAwareGlobalAttention(
        channels, height, width, spatial=spatial, reduction=reduction, squeeze=squeeze
    ).double()
    x = torch.randn(3, channels, height, width, dtype=torch.float64)
    attention.train()(x)  # statistics of BatchNorm that are not the initial ones
    attention.eval()
    expected = x
    if attention.spatial is not None:
        expected = expected * FullAffinityAttention(attention.spatial)(expected)
    assert attention.channel is not None
    nodes = expected.flatten(2).transpose(1, 2).unsqueeze(3)
    expected = expected * FullAffinityAttention(attention.channel)(nodes).transpose(1, 2)
    torch.testing.assert_close(attention(x), expected)


def test_a_ratio_above_the_number_of_channels_leaves_one_channel() -> None:
    attention = RelationAwareGlobalAttention(3, 2, 2)
    assert attention(torch.randn(4, 3, 2, 2)).shape == (4, 3, 2, 2)
    assert attention.spatial is not None
    assert attention.spatial.relate.weight.shape == (1, 8)


def test_a_module_without_both_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="spatial part"):
        RelationAwareGlobalAttention(8, 4, 4, spatial=False, channel=False)


@pytest.mark.parametrize("sizes", [(0, 4, 4), (8, 0, 4), (8, 4, -1)])
def test_a_size_below_one_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RelationAwareGlobalAttention(*sizes)


def test_a_map_of_another_size_is_refused_with_both_sizes() -> None:
    attention = RelationAwareGlobalAttention(8, 4, 4)
    with pytest.raises(ValueError, match=r"expected a map of \(B, 8, 4, 4\), got \(1, 8, 4, 8\)"):
        attention(torch.randn(1, 8, 4, 8))


@pytest.mark.parametrize("order", ["spatial_first", "channel_first", "parallel"])
def test_the_parts_are_applied_in_their_order(order: str) -> None:
    torch.manual_seed(0)
    attention = RelationAwareGlobalAttention(8, 4, 3, order=order, reduction=1, squeeze=1).eval()
    x = torch.randn(2, 8, 4, 3)
    spatial, channel = attention.spatial, attention.channel
    assert spatial is not None
    assert channel is not None

    def by_place(maps: Tensor) -> Tensor:
        weights: Tensor = spatial(maps)
        return weights

    def by_channel(maps: Tensor) -> Tensor:
        weights: Tensor = channel(maps.reshape(2, 8, 12, 1).transpose(1, 2)).reshape(2, 8, 1, 1)
        return weights

    with torch.inference_mode():
        first, second = x * by_place(x), x * by_channel(x)
        expected = {
            "spatial_first": first * by_channel(first),
            "channel_first": second * by_place(second),
            "parallel": x * by_place(x) * by_channel(x),
        }
        torch.testing.assert_close(attention(x), expected[order])
    others = [value for name, value in expected.items() if name != order]
    assert all((expected[order] - other).abs().max() > 1e-4 for other in others)


def test_attention_has_the_inputs_that_its_ablation_says() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 4, 3)
    alone = RelationAwareGlobalAttention(8, 4, 3, channel=False, inputs="feature").eval()
    with torch.inference_mode():
        before = alone.spatial(x)  # type: ignore[misc]
        moved = x.clone()
        moved[:, :, 0, 0] += 1
        changed = (alone.spatial(moved) - before).abs().amax(dim=(0, 1))  # type: ignore[misc]
    assert changed[0, 0] > 0
    assert changed.sum() == changed[0, 0]  # the attention to a place depends on its own feature alone
    symmetric = RelationAwareGlobalAttention(8, 4, 3, is_symmetric=True)
    full = RelationAwareGlobalAttention(8, 4, 3)
    assert sum(p.numel() for p in symmetric.parameters()) < sum(p.numel() for p in full.parameters())
    with pytest.raises(ValueError, match="inputs is both, relations or feature"):
        RelationAwareGlobalAttention(8, 4, 3, inputs="all")
    with pytest.raises(ValueError, match="spatial_first, channel_first or parallel"):
        RelationAwareGlobalAttention(8, 4, 3, order="sideways")
