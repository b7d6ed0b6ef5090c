"""Every number of a training run, validated, under a name; a run writes its own as recipe.json."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. Probabilities are 0-1, sizes in pixels, rates per step.

    Raises:
        ValueError: a number is out of its range.
    """

    name: str
    architecture: str
    height: int
    width: int
    num_epochs: int
    identities_per_batch: int = 16  # P
    images_per_identity: int = 4  # K
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.1
    triplet_margin: float = 0.3
    teacher_weight: float = 20.0
    teacher_relations_weight: float = 0.0
    flip_probability: float = 0.5
    crop_padding: int = 8
    erasing_probability: float = 0.5
    ema_decay: float = 0.999
    frozen_neck_statistics: bool = False
    only_attention: bool = False  # train the RGA modules and the classifier, nothing else
    num_held_out: int = 0  # training identities kept apart, to judge by
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every number."""
        whole = ("height", "width", "num_epochs", "identities_per_batch", "images_per_identity")
        for name in whole:
            _check(name, getattr(self, name), type(getattr(self, name)) is int and getattr(self, name) >= 1)
        for name in ("flip_probability", "erasing_probability", "label_smoothing", "ema_decay"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) <= 1)
        for name in ("weight_decay", "warmup_epochs", "triplet_margin", "crop_padding", "num_held_out"):
            _check(name, getattr(self, name), getattr(self, name) >= 0)
        for name in ("teacher_weight", "teacher_relations_weight"):
            _check(name, getattr(self, name), getattr(self, name) >= 0)
        _check("learning_rate", self.learning_rate, self.learning_rate > 0)
        _check("num_held_out", self.num_held_out, type(self.num_held_out) is int)
        if min(self.identities_per_batch, self.images_per_identity) < 2:
            raise ValueError("a batch needs at least 2 identities with 2 images each to mine triplets")

    @property
    def batch_size(self) -> int:
        """P x K."""
        return self.identities_per_batch * self.images_per_identity

    def to_json(self) -> str:
        """Return the recipe as readable JSON."""
        return json.dumps(asdict(self), indent=2)


def _check(name: str, value: object, is_valid: bool) -> None:
    if not is_valid:
        raise ValueError(f"{name} of the recipe is out of range: {value!r}")


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
    """The shipped network: attention learnt on a frozen network that knows people, which also teaches it.

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


def market1501_rga_sc_resnet50() -> Recipe:
    """RGA-SC on ResNet-50, for a GPU; ImageNet weights are expected as --init."""
    return Recipe(
        name="market1501_rga_sc_resnet50",
        architecture="rga_sc_resnet50",
        height=256,
        width=128,
        num_epochs=120,
        learning_rate=8e-4,
        warmup_epochs=10,
        ema_decay=0.9995,
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
    "market1501_rga_sc_mobilenet_v2": market1501_rga_sc_mobilenet_v2,
    "market1501_rga_sc_osnet": market1501_rga_sc_osnet,
    "market1501_rga_sc_resnet50": market1501_rga_sc_resnet50,
    "tiny": tiny,
}


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
        values: Any = json.loads(Path(name).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as a recipe: {error}") from error
    known = {f.name for f in fields(Recipe)}
    if not isinstance(values, dict) or (unknown := sorted(set(values) - known)):
        raise ValueError(
            f"{name} is not a recipe: unknown {', '.join(unknown) if isinstance(values, dict) else ''}"
        )
    try:
        return Recipe(**values)
    except TypeError as error:
        raise ValueError(f"{name} is not a recipe: {error}") from error
