"""Recipes by name: of the shipped networks, of the RGA paper, for fine-tuning, and for tests."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from model.card import Card
from model.preprocess import IMAGENET_MEAN, IMAGENET_STD
from training.recipes.recipe import Recipe, parse_recipe


def market1501_rga_sc_mobilenet_v2() -> Recipe:
    """Return a recipe for a small network, to be distilled from a teacher on two CPU cores.

    Training starts from ImageNet weights.
    """
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
    """Return the recipe of the shipped network's first step: only the attention is trained.

    The weights of the OSNet that training starts from are frozen, and the same OSNet is the teacher. The
    statistics of its neck are folded into the weights, so the neck gathers none.
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
    """Return the recipe of the shipped network's second step, at 224 x 112 pixels.

    Every weight learns to embed as OpenVINO's person-reidentification-retail-0277 does at 256 x 128 pixels.
    Teacher and student see the same augmented view (Beyer et al., CVPR 2022). No label is used.
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
    """Return RGA-SC on ResNet-50 for CUHK03-NP with boxes drawn by hand: 767 identities, 28,200 steps."""
    return _paper("cuhk03_labeled_rga_sc_resnet50")


def cuhk03_detected_rga_sc_resnet50() -> Recipe:
    """Return RGA-SC on ResNet-50 for CUHK03-NP with boxes of a detector: 767 identities, 28,200 steps."""
    return _paper("cuhk03_detected_rga_sc_resnet50")


def market1501_rga_sc_resnet50() -> Recipe:
    """Return RGA-SC on ResNet-50 for Market-1501: 751 identities, 27,600 steps."""
    return _paper("market1501_rga_sc_resnet50")


def msmt17_rga_sc_resnet50() -> Recipe:
    """Return RGA-SC on ResNet-50 for MSMT17: 1,041 identities, 39,000 steps."""
    return _paper("msmt17_rga_sc_resnet50")


def _paper(name: str) -> Recipe:
    """Return the recipe of Zhang et al., CVPR 2020, with the numbers of the authors' published script.

    Training starts from ImageNet weights (--init imagenet). An epoch draws each identity once and drops the
    last batch if it is incomplete. The authors keep no moving average of the weights, so the EMA decay is 0,
    with which the average is the network itself.

    Deviations: the aspect ratio of the erased rectangle is drawn evenly on a logarithmic scale, from 0.3 to
    1/0.3. If an identity has fewer than K images, each image is shown once before any image is shown twice.
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
    """Return the recipe that fine-tunes a network on the people and cameras of its own gallery.

    A run takes minutes on a CPU. Architecture, input size and pooling are those of the checkpoint that
    training starts from (see `follow`). An epoch draws each identity once. The learning rate is low and the
    epochs are few, because a network that trains on one site forgets the many sites that it knows. Identities
    with one crop are left out, because a crop needs another one of its identity to be pulled towards.
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
    """Return a recipe for tests and for trying a swap: seconds of training, useless for recognition."""
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
    """Give a recipe that ``follows_initial`` the architecture, input size and pooling of a checkpoint.

    If the training split has fewer identities than a batch takes, or fewer crops of each, the batches are
    made smaller. Another recipe is returned as it is.

    Args:
        recipe: the recipe.
        card: the card of the checkpoint that training starts from, or None without one.
        pids: the identity of each sample of the training split.

    Raises:
        ValueError: there is no checkpoint, or its mean and std are not those of ImageNet.
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
    """Return the recipe of a name in RECIPES, or read the .json file of an earlier run.

    Raises:
        ValueError: no recipe has the name, or the file holds no valid recipe; the message says what is wrong.
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
