"""Recipes by name: the networks that ship, those of the RGA paper, and one for tests."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from model.card import Card
from model.preprocess import IMAGENET_MEAN, IMAGENET_STD
from training.recipes.recipe import Recipe, parse_recipe


def market1501_rga_sc_mobilenet_v2() -> Recipe:
    """Small enough to train on two cores from ImageNet weights, meant to be distilled from a teacher."""
    return Recipe(
        name="market1501_rga_sc_mobilenet_v2",
        architecture="rga_sc_mobilenet_v2",
        height=192,
        width=96,
        num_epochs=15,
        teacher_relations_weight=40.0,
        erasing_probability=0.3,
    )


def market1501_rga_sc_osnet() -> Recipe:
    """The shipped network's first step: attention learnt on a frozen network, which also teaches it.

    The neck came with its statistics folded in, so they are not gathered anew.
    """
    return Recipe(
        name="market1501_rga_sc_osnet",
        architecture="rga_sc_osnet",
        height=256,
        width=128,
        num_epochs=1,
        learning_rate=5e-4,
        warmup_epochs=0.1,
        weight_decay=1e-4,
        teacher_weight=0.0,
        teacher_relations_weight=40.0,
        erasing_probability=0.3,
        ema_decay=0.99,
        frozen_neck_statistics=True,
        only_attention=True,
        num_held_out=100,
    )


def market1501_rga_sc_osnet_224() -> Recipe:
    """Its second step, at 224 x 112 pixels: every weight learns to embed as 0277 does at 256 x 128.

    Teacher and student see the same view (Beyer et al., CVPR 2022), and no label is used.
    """
    return Recipe(
        name="market1501_rga_sc_osnet_224",
        architecture="rga_sc_osnet",
        height=224,
        width=112,
        num_epochs=20,
        identities_per_batch=8,
        sampler="identities",
        learning_rate=5e-4,
        warmup_epochs=0.1,
        weight_decay=0.0,
        identity_weight=0.0,
        triplet="none",
        teacher_relations_weight=40.0,
        translation_probability=0.3,
        jitter_brightness=0.2,
        jitter_contrast=0.2,
        jitter_saturation=0.2,
        jitter_hue=0.03,
        erasing_probability=0.3,
        ema_decay=0.99,
        frozen_neck_statistics=True,
        num_held_out=100,
    )


def cuhk03_labeled_rga_sc_resnet50() -> Recipe:
    """RGA-SC on ResNet-50 for CUHK03-NP with boxes drawn by hand: 767 identities, 28,200 steps."""
    return _paper("cuhk03_labeled_rga_sc_resnet50")


def cuhk03_detected_rga_sc_resnet50() -> Recipe:
    """RGA-SC on ResNet-50 for CUHK03-NP with boxes of a detector: 767 identities, 28,200 steps."""
    return _paper("cuhk03_detected_rga_sc_resnet50")


def market1501_rga_sc_resnet50() -> Recipe:
    """RGA-SC on ResNet-50 for Market-1501: 751 identities, 27,600 steps."""
    return _paper("market1501_rga_sc_resnet50")


def msmt17_rga_sc_resnet50() -> Recipe:
    """RGA-SC on ResNet-50 for MSMT17: 1,041 identities, 39,000 steps."""
    return _paper("msmt17_rga_sc_resnet50")


def _paper(name: str) -> Recipe:
    """Return the recipe of Zhang et al., CVPR 2020, by the authors' published script.

    ImageNet weights are expected as --init. An epoch draws each identity once and drops the last incomplete
    batch. Deviations: the aspect of the erased rectangle is drawn evenly on a logarithmic scale, from 0.3 to
    1/0.3; an identity with fewer than K images shows each once before any twice. There is no EMA: with a
    decay of 0 it is the network itself.
    """
    return Recipe(
        name=name,
        architecture="rga_sc_resnet50",
        height=256,
        width=128,
        num_epochs=600,
        identities_per_batch=16,
        images_per_identity=4,
        sampler="identities",
        optimizer="adam",
        learning_rate=8e-4,
        weight_decay=5e-4,
        schedule="step",
        schedule_per="epoch",
        warmup_epochs=20,
        warmup_start_factor=0.01,
        milestones=tuple(range(80, 361, 40)),
        milestone_factor=0.5,
        ema_decay=0.0,
        label_smoothing=0.1,
        triplet="hard",
        triplet_margin=0.3,
        flip_probability=0.5,
        crop_padding=0,
        translation_probability=0.5,
        translation_scale=1.125,
        erasing_probability=0.5,
    )


def finetune() -> Recipe:
    """A network that is in service, taught the people and cameras of its own gallery: minutes on a processor.

    Architecture and input size are those of the checkpoint it starts from (see ``follow``), else the shipped
    network's. An epoch draws each identity once. Small steps and few of them: the people of one site teach a
    network that knows many sites to forget them. Identities with one crop are left out, as they have no other
    to come near to.
    """
    return Recipe(
        name="finetune",
        architecture="rga_sc_osnet",
        height=224,
        width=112,
        follows_initial=True,
        num_epochs=15,
        identities_per_batch=8,
        images_per_identity=4,
        sampler="identities",
        min_images_per_identity=2,
        learning_rate=1e-4,
        warmup_epochs=1.0,
        ema_decay=0.9,
        frozen_neck_statistics=True,
        translation_probability=0.3,
        crop_padding=0,
        erasing_probability=0.3,
    )


def tiny() -> Recipe:
    """Seconds on any machine: for tests and for trying the swap, not for recognising people."""
    return Recipe(
        name="tiny",
        architecture="tiny",
        height=64,
        width=32,
        num_epochs=2,
        identities_per_batch=4,
        images_per_identity=2,
        crop_padding=2,
        ema_decay=0.9,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "cuhk03_detected_rga_sc_resnet50": cuhk03_detected_rga_sc_resnet50,
    "cuhk03_labeled_rga_sc_resnet50": cuhk03_labeled_rga_sc_resnet50,
    "finetune": finetune,
    "market1501_rga_sc_mobilenet_v2": market1501_rga_sc_mobilenet_v2,
    "market1501_rga_sc_osnet": market1501_rga_sc_osnet,
    "market1501_rga_sc_osnet_224": market1501_rga_sc_osnet_224,
    "market1501_rga_sc_resnet50": market1501_rga_sc_resnet50,
    "msmt17_rga_sc_resnet50": msmt17_rga_sc_resnet50,
    "tiny": tiny,
}


def follow(recipe: Recipe, card: Card | None, pids: Iterable[int]) -> Recipe:
    """Return a recipe that ``follows_initial`` for the network of a card; any other as it is.

    Batches are made smaller where the training split has too few identities or crops of one. ``pids`` has the
    identity of each of its samples.

    Raises:
        ValueError: the recipe needs a checkpoint of ours, or its pixels are normalised in another way.
    """
    if not recipe.follows_initial:
        return recipe
    if card is None:
        raise ValueError(f"{recipe.name} starts from a checkpoint: give --init FILE or --init active")
    if (card.mean, card.std) != (IMAGENET_MEAN, IMAGENET_STD):
        raise ValueError(f"{recipe.name} starts from a checkpoint with the mean and std of ImageNet")
    counts = Counter(pids)
    repeated = [count for count in counts.values() if count >= recipe.min_images_per_identity]
    return replace(
        recipe,
        architecture=card.architecture,
        height=card.height,
        width=card.width,
        pooling=card.pooling,
        identities_per_batch=max(2, min(recipe.identities_per_batch, len(repeated))),
        images_per_identity=max(2, min(recipe.images_per_identity, max(repeated, default=2))),
    )


def find_recipe(name: str) -> Recipe:
    """Return the recipe of that name, or the one in a .json file that an earlier run wrote.

    Raises:
        ValueError: no such recipe, or the file does not hold one; the message says what is wrong.
    """
    if name in RECIPES:
        return RECIPES[name]()
    if not name.endswith(".json"):
        raise ValueError(f"no recipe {name!r}; there are {', '.join(RECIPES)}, or give a recipe.json")
    try:
        text = Path(name).read_text()
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as a recipe: {error}") from error
    return parse_recipe(text, name)
