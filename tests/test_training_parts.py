"""Samplers, losses, recipes and initial weights, each against its slow twin or by hand."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.models import mobilenet_v2, resnet50

from model.architectures import build_network
from model.checkpoint import Card, save_checkpoint
from model.preprocess import Preprocess
from references import loop_triplet_loss
from training.augment import Augment
from training.initial import Initial, InitialWeightsError, find_initial
from training.losses import batch_hard_triplet_loss, teacher_loss, teacher_relations_loss
from training.recipes import RECIPES, find_recipe, tiny
from training.samplers import IdentitySampler
from training.trainer import freeze_all_but_attention


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(1, 11), min_size=4, max_size=12), seed=st.integers(0, 99))
def test_every_batch_has_p_identities_with_k_crops_each(counts: list[int], seed: int) -> None:
    pids = [pid for pid, count in enumerate(counts) for _ in range(count)]
    batches = list(IdentitySampler(pids, 4, 3, seed=seed))
    assert batches
    for batch in batches:
        assert sorted(Counter(pids[position] for position in batch).values()) == [3] * 4
    seen = Counter(position for batch in batches for position in batch)
    assert all(seen[position] <= 3 for position in seen)


def test_an_epoch_is_a_function_of_its_seed_and_number() -> None:
    pids = [pid for pid in range(9) for _ in range(7)]
    first, second = IdentitySampler(pids, 4, 3, seed=1), IdentitySampler(pids, 4, 3, seed=1)
    first.epoch = second.epoch = 5
    assert list(first) == list(second)
    assert len(first) == len(list(first))
    second.epoch = 6
    assert list(first) != list(second)


def test_too_few_identities_are_refused() -> None:
    with pytest.raises(ValueError, match="takes 4 identities, the data have 3"):
        IdentitySampler([1, 2, 3], 4, 2, seed=0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), margin=st.floats(0, 2))
def test_the_triplet_loss_is_that_of_the_loop(seed: int, margin: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(12, 5, generator=generator)
    labels = torch.arange(4).repeat_interleave(3)
    loss = batch_hard_triplet_loss(embeddings, labels, margin)
    assert float(loss) == pytest.approx(loop_triplet_loss(embeddings, labels, margin), abs=1e-5)


def test_the_triplet_loss_of_equal_embeddings_has_a_finite_gradient() -> None:
    embeddings = torch.ones(6, 5, requires_grad=True)
    loss = batch_hard_triplet_loss(embeddings, torch.arange(3).repeat_interleave(2), 0.3)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.3)
    assert embeddings.grad is not None
    assert torch.isfinite(embeddings.grad).all()


def test_the_teacher_losses_are_zero_for_a_copy_and_blind_to_scale() -> None:
    teacher = torch.randn(6, 8)
    assert float(teacher_loss(3 * teacher, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(teacher_loss(-teacher, teacher)) == pytest.approx(2, abs=1e-6)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8))
    assert float(teacher_relations_loss(5 * teacher @ rotation, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(teacher_relations_loss(torch.randn(6, 8), teacher)) > 0.01


def test_every_recipe_is_found_by_its_own_name_and_its_network_can_be_built() -> None:
    for name, make in RECIPES.items():
        recipe = make()
        assert recipe.name == name
        assert find_recipe(name) == recipe
        with torch.device("meta"):
            build_network(recipe.architecture, height=recipe.height, width=recipe.width, num_identities=2)


def test_a_recipe_comes_back_from_its_file(tmp_path: Path) -> None:
    recipe = replace(tiny(), learning_rate=0.0123)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    assert find_recipe(str(tmp_path / "recipe.json")) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_epochs": 0}, "num_epochs"),
        ({"num_epochs": 1.5}, "num_epochs"),
        ({"flip_probability": 1.5}, "flip_probability"),
        ({"learning_rate": -1}, "learning_rate"),
        ({"images_per_identity": 1}, "at least 2"),
        ({"learning_rte": 0.1}, "unknown learning_rte"),
    ],
)
def test_a_bad_recipe_is_refused_by_the_name_of_the_number(
    tmp_path: Path, change: dict[str, float], message: str
) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({**asdict(tiny()), **change}))
    with pytest.raises(ValueError, match=message):
        find_recipe(str(path))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null"])
def test_a_file_that_holds_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="recipe"):
        find_recipe(str(path))


def test_an_unknown_recipe_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="market1501_rga_sc_mobilenet_v2"):
        find_recipe("market")


def test_augmentation_gives_the_networks_size_and_erases_with_the_mean() -> None:
    recipe = replace(tiny(), erasing_probability=1.0, flip_probability=0.0, crop_padding=0)
    preprocess = Preprocess(recipe.height, recipe.width)
    white = Image.new("RGB", (40, 100), "white")
    torch.manual_seed(0)
    augmented, plain = Augment(recipe, preprocess)(white), preprocess([white])[0]
    assert augmented.shape == plain.shape
    changed = augmented != plain
    assert 0.02 <= float(changed.float().mean()) <= 0.4
    assert (augmented[changed] == 0).all()


@pytest.mark.parametrize(
    ("architecture", "trunk"), [("rga_sc_mobilenet_v2", mobilenet_v2), ("rga_sc_resnet50", resnet50)]
)
def test_torchvision_weights_land_in_the_trunk(architecture: str, trunk: Callable[..., nn.Module]) -> None:
    torch.manual_seed(3)
    theirs = trunk(weights=None).state_dict()
    network = build_network(architecture, height=64, width=32, num_identities=3)
    Initial("torchvision", theirs).load_into(network)
    found = {tensor.sum().item() for tensor in network.state_dict().values() if tensor.dim() == 4}
    wanted = {tensor.sum().item() for tensor in theirs.values() if tensor.dim() == 4}
    assert wanted <= found


def test_older_torchvision_names_are_taken_by_order(tmp_path: Path) -> None:
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


def test_a_checkpoint_of_ours_is_taken_without_its_classifier(tmp_path: Path) -> None:
    torch.manual_seed(5)
    parent = build_network("tiny", height=64, width=32, num_identities=7)
    card = Card(architecture="tiny", height=64, width=32, embedding_size=64, num_identities=7)
    version = save_checkpoint(tmp_path / "parent.safetensors", parent, card)
    network = build_network("tiny", height=64, width=32, num_identities=3)
    initial = find_initial(str(tmp_path / "parent.safetensors"), "tiny")
    assert initial is not None
    assert initial.version == version
    initial.load_into(network)
    assert torch.equal(network.backbone.state_dict()["0.weight"], parent.backbone.state_dict()["0.weight"])
    assert network.classifier.weight.shape == (3, 64)
    other = build_network("tiny", height=128, width=32, num_identities=3)
    with pytest.raises(InitialWeightsError, match="another architecture or input size"):
        initial.load_into(other)


def test_bad_files_to_start_from_are_refused(tmp_path: Path) -> None:
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
