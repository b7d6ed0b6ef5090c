"""Recipes, and the optimisers, learning rates, batches and crops that they give."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from PIL import Image
from torch import nn

from live_server import person
from model.architectures import build_network
from model.preprocess import Preprocess
from training.data.augment import POLICIES, Augment
from training.data.crops import Crops, Draw, plan_epoch, select_frequent
from training.data.datasets import Sample
from training.data.samplers import IdentitySampler
from training.engine.optimizers import learning_rate, make_optimizer
from training.recipes.named import RECIPES, find_recipe, tiny
from training.recipes.recipe import AutoAugmentPolicy, Recipe

PAPER = [
    "cuhk03_labeled_rga_sc_resnet50",
    "cuhk03_detected_rga_sc_resnet50",
    "market1501_rga_sc_resnet50",
    "msmt17_rga_sc_resnet50",
]


def test_every_recipe_is_found_by_its_own_name_and_its_network_can_be_built() -> None:
    for name, make in RECIPES.items():
        recipe = make()
        assert recipe.name == name
        assert find_recipe(name) == recipe
        with torch.device("meta"):
            build_network(recipe.architecture, height=recipe.height, width=recipe.width, num_identities=2)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipe_has_the_numbers_of_the_authors(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.architecture == "rga_sc_resnet50"
    assert (recipe.height, recipe.width) == (256, 128)
    assert (recipe.identities_per_batch, recipe.images_per_identity) == (16, 4)
    assert (recipe.sampler, recipe.num_epochs, recipe.accumulation_steps) == ("identities", 600, 1)
    assert (recipe.translation_probability, recipe.translation_scale) == (0.5, 1.125)
    assert (recipe.flip_probability, recipe.erasing_probability, recipe.crop_padding) == (0.5, 0.5, 0)
    assert (recipe.auto_augment, recipe.jitter_brightness, recipe.jitter_hue) == ("none", 0, 0)
    assert recipe.label_smoothing == 0.1
    assert (recipe.triplet, recipe.triplet_margin) == ("hard", 0.3)
    assert (recipe.circle_weight, recipe.centre_weight) == (0, 0)
    assert (recipe.optimizer, recipe.weight_decay, recipe.learning_rate) == ("adam", 5e-4, 8e-4)
    assert (recipe.schedule, recipe.schedule_per, recipe.warmup_epochs) == ("step", "epoch", 20)
    assert recipe.milestones == (80, 120, 160, 200, 240, 280, 320, 360)
    assert recipe.milestone_factor == 0.5
    assert (recipe.ema_decay, recipe.pooling, recipe.num_held_out) == (0, "average", 0)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_learning_rate_is_that_of_the_authors(name: str) -> None:
    rates = {
        0: 8e-6,
        10: (8e-6 + 8e-4) / 2,
        20: 8e-4,
        79: 8e-4,
        80: 4e-4,
        360: 8e-4 / 2**8,
        599: 8e-4 / 2**8,
    }
    recipe = find_recipe(name)
    for epoch, rate in rates.items():
        assert learning_rate(recipe, epoch) == pytest.approx(rate, rel=1e-9)
        assert learning_rate(recipe, epoch + 0.99) == learning_rate(recipe, epoch)


def test_an_epoch_of_the_paper_draws_each_identity_once() -> None:
    pids = [pid for pid in range(767) for _ in range(9)]
    batches = IdentitySampler(pids, 16, 4, seed=0, draws="identities").batches(0)
    assert 600 * len(batches) == 28_200
    drawn = [pids[position] for batch in batches for position in batch]
    assert all(drawn.count(pid) in (0, 4) for pid in range(767))
    assert len(set(drawn)) == 47 * 16
    assert all(len(set(batch)) == 64 for batch in batches)
    others = IdentitySampler(pids, 16, 4, seed=0, draws="identities").batches(1)
    assert batches != others
    assert len(IdentitySampler(pids, 16, 4, seed=0).batches(0)) > 2 * len(batches)


def test_the_papers_network_trains_everything_but_the_bias_of_its_neck() -> None:
    with torch.device("meta"):
        network = build_network("rga_sc_resnet50", height=256, width=128, num_identities=767)
        output: Any = network(torch.zeros(2, 3, 256, 128))
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert frozen == ["neck.bias"]
    assert output.pooled.shape == output.embedding.shape == (2, 2048)
    assert isinstance(network.pool, nn.AdaptiveAvgPool2d)


def test_an_older_recipe_file_keeps_its_meaning(tmp_path: Path) -> None:
    """The first version of the shipped network's recipe.json had twenty fields."""
    older = {
        "name": "market1501_rga_sc_osnet",
        "architecture": "rga_sc_osnet",
        "height": 256,
        "width": 128,
        "num_epochs": 1,
        "identities_per_batch": 16,
        "images_per_identity": 4,
        "learning_rate": 5e-4,
        "weight_decay": 1e-4,
        "warmup_epochs": 0.1,
        "label_smoothing": 0.1,
        "triplet_margin": 0.3,
        "teacher_weight": 0.0,
        "teacher_relations_weight": 40.0,
        "flip_probability": 0.5,
        "crop_padding": 8,
        "erasing_probability": 0.3,
        "ema_decay": 0.99,
        "frozen_neck_statistics": True,
        "only_attention": True,
        "num_held_out": 100,
        "seed": 0,
    }
    (tmp_path / "recipe.json").write_text(json.dumps(older))
    recipe = find_recipe(str(tmp_path / "recipe.json"))
    assert recipe == find_recipe("market1501_rga_sc_osnet")
    assert (recipe.optimizer, recipe.schedule, recipe.sampler) == ("adam", "cosine", "images")
    assert learning_rate(recipe, 0.05) == pytest.approx(5e-4 * (0.01 + 0.99 / 2))
    assert learning_rate(recipe, 0.55) == pytest.approx(5e-4 / 2)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_back_from_its_file(tmp_path: Path, name: str) -> None:
    recipe = replace(find_recipe(name), learning_rate=0.0123)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    assert find_recipe(str(tmp_path / "recipe.json")) == recipe


def test_fields_may_have_their_older_names(tmp_path: Path) -> None:
    values = asdict(tiny())
    del values["gradient_checkpointing"], values["sampler"]
    values |= {"recomputes": True, "epoch_draws": "identities", "warmup_epochs": 1}
    (tmp_path / "recipe.json").write_text(json.dumps(values))
    recipe = find_recipe(str(tmp_path / "recipe.json"))
    assert recipe == replace(tiny(), gradient_checkpointing=True, sampler="identities")


def test_all_problems_of_a_recipe_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"name": "short", "num_epochs": 1}')
    with pytest.raises(ValueError, match="architecture is missing; height is missing; width is missing"):
        find_recipe(str(tmp_path / "recipe.json"))


BAD_NUMBERS: list[tuple[dict[str, Any], str]] = [
    ({"num_epochs": 0}, "num_epochs"),
    ({"num_epochs": 1.5}, "num_epochs"),
    ({"flip_probability": 1.5}, "flip_probability of the recipe is 1.5; must be less than or equal to 1"),
    ({"learning_rate": -1}, "learning_rate"),
    ({"learning_rate": 0}, "learning_rate"),
    ({"learning_rate": float("nan")}, "learning_rate"),
    ({"weight_decay": "much"}, "weight_decay"),
    ({"num_epochs": 0, "optimizer": "lion"}, "num_epochs of .*; optimizer of "),
    ({"pooling": "max"}, "pooling of the recipe is 'max'; there are average, gem"),
    ({"milestones": [20, 20]}, r"milestones of the recipe is \[20, 20\]; must rise"),
    ({"seed": True}, "seed of the recipe is True; must be a valid integer"),
    ({"epoch_draws": "people"}, "sampler of the recipe is 'people'; there are images, identities"),
    ({"images_per_identity": 1}, "at least 2"),
    ({"learning_rte": 0.1}, "unknown learning_rte"),
    ({"optimizer": "lion"}, "optimizer of the recipe is 'lion'; there are adam, adamw, sgd"),
    ({"schedule": "step", "milestones": [20, 10]}, "milestones"),
    ({"schedule": "step", "milestones": [0.5]}, "milestones"),
    ({"schedule": "step", "milestones": "80"}, "milestones"),
    ({"milestones": [10]}, "milestones belong to the step schedule"),
    ({"jitter_hue": 0.6}, "jitter_hue"),
    ({"translation_scale": 0.9}, "translation_scale"),
    ({"accumulation_steps": 0}, "accumulation_steps"),
    ({"only_attention": 1}, "only_attention"),
    ({"evaluate_every": 1}, "evaluate_every needs num_held_out"),
]


@pytest.mark.parametrize(("change", "message"), BAD_NUMBERS)
def test_an_invalid_recipe_is_refused_with_the_name_of_the_field(
    tmp_path: Path, change: dict[str, Any], message: str
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


def test_an_unknown_recipe_ends_in_a_list_of_the_known_ones() -> None:
    with pytest.raises(ValueError, match="market1501_rga_sc_mobilenet_v2"):
        find_recipe("market")


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_each_optimiser_gets_the_recipes_numbers_and_the_trained_weights(name: Any, kind: type) -> None:
    recipe = replace(tiny(), optimizer=name, learning_rate=0.2, weight_decay=0.01, momentum=0.8)
    moving, frozen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = make_optimizer(recipe, [moving, frozen])
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.2, 0.01)
    assert len(group["params"]) == 1
    assert group.get("momentum", 0.8) == 0.8
    (moving.sum()).backward()
    optimizer.step()
    assert (moving < 0.9).all()


def augmented(image: Image.Image, seed: int, **changes: Any) -> torch.Tensor:
    plain = {"erasing_probability": 0.0, "flip_probability": 0.0, "crop_padding": 0}
    recipe = replace(tiny(), **(plain | changes))
    torch.manual_seed(seed)
    return Augment(recipe, Preprocess(recipe.height, recipe.width))(image)


def test_without_augmentation_only_the_preprocessing_is_left() -> None:
    image = person(3)
    assert torch.equal(augmented(image, 0), Preprocess(64, 32)([image])[0])


def test_augmentation_gives_the_networks_size_and_erases_with_the_mean() -> None:
    white = Image.new("RGB", (40, 100), "white")
    changed = augmented(white, 0, erasing_probability=1.0)
    plain = Preprocess(64, 32)([white])[0]
    assert changed.shape == plain.shape
    is_erased = changed != plain
    assert 0.02 <= float(is_erased.float().mean()) <= 0.4
    assert (changed[is_erased] == 0).all()


def test_a_translated_crop_is_a_window_of_the_enlarged_crop() -> None:
    image = person(3)
    larger = Preprocess(72, 36)([image])[0]
    windows = [larger[:, y : y + 64, x : x + 32] for y in range(9) for x in range(5)]
    seen = set()
    for seed in range(20):
        crop = augmented(image, seed, translation_probability=1.0)
        seen |= {number for number, window in enumerate(windows) if torch.equal(window, crop)}
    assert len(seen) > 10
    halves = [augmented(image, seed, translation_probability=0.5) for seed in range(200)]
    num_plain = sum(torch.equal(half, Preprocess(64, 32)([image])[0]) for half in halves)
    assert 70 < num_plain < 130


@pytest.mark.parametrize("policy", POLICIES)
def test_each_policy_changes_crops_and_keeps_their_size(policy: str) -> None:
    image = person(3)
    plain = Preprocess(64, 32)([image])[0]
    crops = [augmented(image, seed, auto_augment=policy) for seed in range(8)]
    assert all(crop.shape == plain.shape for crop in crops)
    assert sum(not torch.equal(crop, plain) for crop in crops) >= 3
    never = augmented(image, 0, auto_augment=policy, auto_augment_probability=0.0)
    assert torch.equal(never, plain)


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation", "hue"])
def test_each_jitter_changes_colours_by_its_strength(kind: str) -> None:
    image = person(3)
    plain = Preprocess(64, 32)([image])[0]

    def change(strength: float) -> float:
        crops = [augmented(image, seed, **{f"jitter_{kind}": strength}) for seed in range(4)]
        return float(torch.stack([(crop - plain).abs().mean() for crop in crops]).mean())

    assert 0 < change(0.05) < change(0.4)


def test_every_policy_of_a_recipe_exists() -> None:
    assert set(get_args(AutoAugmentPolicy)) == {"none", *POLICIES}


def test_the_augmentation_of_a_crop_depends_only_on_its_place_in_the_epoch(tmp_path: Path) -> None:
    path = tmp_path / "crop.png"
    person(3).save(path)
    recipe = replace(tiny(), translation_probability=0.5, auto_augment="trivial_augment")
    crops = Crops([Sample(path, 7, 1)], {7: 0}, Augment(recipe, Preprocess(64, 32)))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    image, label, position = crops[Draw(0, 5)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(crops[Draw(0, 5)][0], image)
    assert not torch.equal(crops[Draw(0, 6)][0], image)
    assert (label, position) == (0, 0)
    plans = [plan_epoch([[0, 0], [0, 0]], seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    seeds = {draw.seed for plan in plans for batch in plan for draw in batch}
    assert len(seeds) == 12


def test_identities_with_too_few_images_can_be_left_out() -> None:
    samples = [Sample(Path(f"{number}"), pid, 1) for number, pid in enumerate([5, 3, 5, 9, 9, 9])]
    assert select_frequent(samples, 1) == [0, 1, 2, 3, 4, 5]
    assert select_frequent(samples, 2) == [0, 2, 3, 4, 5]
    assert select_frequent(samples, 3) == [3, 4, 5]


def test_more_images_than_any_identity_has_are_refused() -> None:
    with pytest.raises(ValueError, match="takes 4 images of an identity, and none has more than 3"):
        IdentitySampler([1, 1, 1, 2, 2], 2, 4, seed=0)
    short = IdentitySampler([1, 1, 1, 1, 2, 2], 2, 4, seed=0).batches(0)
    assert sorted(short[0])[:4] == [0, 1, 2, 3]  # an identity with fewer images repeats some


def test_the_numbers_of_the_shipped_recipes_have_not_changed() -> None:
    recipe: Recipe = find_recipe("market1501_rga_sc_mobilenet_v2")
    assert (recipe.learning_rate, recipe.weight_decay, recipe.ema_decay) == (1e-3, 5e-4, 0.999)
    assert (recipe.num_epochs, recipe.crop_padding, recipe.translation_probability) == (15, 8, 0)
    assert learning_rate(recipe, 0) == pytest.approx(1e-5)
    assert learning_rate(recipe, 8) == pytest.approx(5e-4)
