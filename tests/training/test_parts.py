"""Samplers and initial weights, against hand-made examples."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import mobilenet_v2, resnet50

from model.architectures import build_network
from model.card import Card
from model.checkpoint import load_checkpoint, save_checkpoint
from model.resizing import resize_relations
from training.data.samplers import IdentitySampler
from training.weights.initial import Initial, InitialWeightsError, find_initial, freeze_all_but_attention


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(1, 11), min_size=4, max_size=12).filter(lambda c: max(c) > 2),
    seed=st.integers(0, 99),
)
def test_every_batch_has_p_identities_with_k_crops_each(counts: list[int], seed: int) -> None:
    pids = [pid for pid, count in enumerate(counts) for _ in range(count)]
    batches = IdentitySampler(pids, 4, 3, seed=seed).batches(0)
    assert batches
    for batch in batches:
        assert sorted(Counter(pids[position] for position in batch).values()) == [3] * 4
    seen = Counter(position for batch in batches for position in batch)
    assert all(seen[position] <= 3 for position in seen)


def test_an_epoch_depends_only_on_its_seed_and_number() -> None:
    pids = [pid for pid in range(9) for _ in range(7)]
    first, second = IdentitySampler(pids, 4, 3, seed=1), IdentitySampler(pids, 4, 3, seed=1)
    assert first.batches(5) == second.batches(5)
    assert first.batches(5) != second.batches(6)
    assert first.batches(5) != IdentitySampler(pids, 4, 3, seed=2).batches(5)


def test_too_few_identities_are_refused() -> None:
    with pytest.raises(ValueError, match="takes 4 identities, the data have 3"):
        IdentitySampler([1, 2, 3], 4, 2, seed=0)


@pytest.mark.parametrize(
    ("architecture", "trunk"), [("rga_sc_mobilenet_v2", mobilenet_v2), ("rga_sc_resnet50", resnet50)]
)
def test_torchvision_weights_are_loaded_into_the_trunk(
    architecture: str, trunk: Callable[..., nn.Module]
) -> None:
    torch.manual_seed(3)
    theirs = trunk(weights=None).state_dict()
    network = build_network(architecture, height=64, width=32, num_identities=3)
    Initial("torchvision", theirs).load_into(network)
    found = {tensor.sum().item() for tensor in network.state_dict().values() if tensor.dim() == 4}
    wanted = {tensor.sum().item() for tensor in theirs.values() if tensor.dim() == 4}
    assert wanted <= found


def test_older_torchvision_names_are_matched_by_order(tmp_path: Path) -> None:
    theirs = mobilenet_v2(weights=None).features.state_dict()
    renamed = {f"features.{number}.older": tensor for number, tensor in enumerate(theirs.values())}
    older = {
        (name + ".num_batches_tracked" if tensor.dim() == 0 else name): tensor
        for name, tensor in renamed.items()
    }
    torch.save(older, tmp_path / "older.pt")
    network = build_network("rga_sc_mobilenet_v2", height=64, width=32, num_identities=3)
    initial = find_initial(str(tmp_path / "older.pt"), "rga_sc_mobilenet_v2")
    assert initial is not None
    initial.load_into(network)
    first = network.state_dict()["backbone.0.0.0.weight"]
    assert torch.equal(first, theirs["0.0.weight"])


def test_weights_of_another_network_are_refused() -> None:
    network = build_network("rga_sc_mobilenet_v2", height=64, width=32, num_identities=3)
    with pytest.raises(InitialWeightsError, match="does not hold the weights of this backbone"):
        Initial("resnet50.pth", resnet50(weights=None).state_dict()).load_into(network)


def test_a_checkpoint_of_ours_is_loaded_without_its_classifier(tmp_path: Path) -> None:
    torch.manual_seed(5)
    parent = build_network("tiny", height=64, width=32, num_identities=7)
    card = Card(architecture="tiny", height=64, width=32, embedding_size=64, num_identities=7)
    version = save_checkpoint(tmp_path / "parent.safetensors", parent, card)
    network = build_network("tiny", height=64, width=32, num_identities=3)
    initial = find_initial(str(tmp_path / "parent.safetensors"), "tiny")
    assert initial is not None
    assert initial.version == version
    initial.load_into(network)
    first, theirs = (n.state_dict()["backbone.0.0.weight"] for n in (network, parent))
    assert torch.equal(first, theirs)
    assert network.classifier.weight.shape == (3, 64)
    foreign = build_network("rga_sc_symmetric_tiny", height=64, width=32, num_identities=3)
    with pytest.raises(InitialWeightsError, match=r"another architecture: .* layers of other sizes"):
        initial.load_into(foreign)
    with pytest.raises(InitialWeightsError, match=r"another architecture: .* other layers"):
        initial.load_into(build_network("plain_tiny", height=64, width=32, num_identities=3))


def test_a_checkpoint_of_another_input_size_is_resized_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "parent.safetensors"
    card = Card(architecture="rga_sc_all_tiny", height=64, width=32, embedding_size=64, num_identities=7)
    save_checkpoint(path, build_network("rga_sc_all_tiny", height=64, width=32, num_identities=7), card)
    network = build_network("rga_sc_all_tiny", height=96, width=32, num_identities=3)
    refused, allowed = (
        find_initial(str(path), "rga_sc_all_tiny", resizes=resizes) for resizes in (False, True)
    )
    assert refused is not None
    assert allowed is not None
    with pytest.raises(InitialWeightsError) as caught:
        refused.load_into(network)
    assert str(caught.value) == (
        f"{path} was made for 64 x 32 pixels, and its relation weights depend on the grid: 32 x 16, 16 x 8, "
        "8 x 4 and 4 x 2 places in it, 48 x 16, 24 x 8, 12 x 4 and 6 x 2 in this run; "
        "give --resize-relations to interpolate them"
    )
    allowed.load_into(network)
    expected = resize_relations(load_checkpoint(path).network, network)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in expected.items())


def test_unusable_files_of_initial_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(InitialWeightsError, match="cannot be read as a torch state dict"):
        find_initial(str(tmp_path / "torn.pt"), "tiny")
    with pytest.raises(InitialWeightsError, match="cannot be read"):
        find_initial(str(tmp_path / "absent.pt"), "tiny")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(InitialWeightsError, match="no state dict"):
        find_initial(str(tmp_path / "other.pt"), "tiny")
    with pytest.raises(InitialWeightsError, match="--init none"):
        find_initial("imagenet", "tiny")
    assert find_initial("none", "tiny") is None


def test_only_the_attention_and_the_classifier_train_when_the_rest_is_frozen() -> None:
    network = build_network("rga_sc_osnet", height=64, width=32, num_identities=3)
    freeze_all_but_attention(network)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert "classifier.weight" in trained
    assert {name.split(".")[1] for name in trained - {"classifier.weight"}} == {"4"}  # after stem and stages
    assert "neck.weight" not in trained
