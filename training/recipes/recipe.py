"""Every number of a training run, validated. A run writes its own as recipe.json."""

import json
import math
from dataclasses import asdict, dataclass

from model.layers import POOLINGS

CHOICES: dict[str, tuple[str, ...]] = {
    "pooling": POOLINGS,
    "epoch_draws": ("images", "identities"),
    "optimizer": ("adam", "adamw", "sgd"),
    "schedule": ("cosine", "step"),
    "schedule_per": ("step", "epoch"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "triplet": ("hard", "soft", "none"),
    "auto_augment": ("none", "auto_augment", "rand_augment", "trivial_augment", "aug_mix"),
}
"""What each field that is a word may say."""

_COUNTS = {
    "height": 1,
    "width": 1,
    "num_epochs": 1,
    "identities_per_batch": 1,
    "images_per_identity": 1,
    "min_images_per_identity": 1,
    "accumulation_steps": 1,
    "crop_padding": 0,
    "num_held_out": 0,
    "evaluate_every": 0,
    "seed": 0,
}
_FRACTIONS = (
    "milestone_factor",
    "warmup_start_factor",
    "momentum",
    "ema_decay",
    "label_smoothing",
    "circle_margin",
    "centre_rate",
    "flip_probability",
    "translation_probability",
    "erasing_probability",
    "auto_augment_probability",
)
_NOT_NEGATIVE = (
    "weight_decay",
    "warmup_epochs",
    "identity_weight",
    "triplet_margin",
    "circle_weight",
    "circle_scale",
    "centre_weight",
    "teacher_weight",
    "teacher_relations_weight",
    "compatible_weight",
    "compatible_scale",
    "jitter_brightness",
    "jitter_contrast",
    "jitter_saturation",
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. Probabilities are 0-1, sizes in pixels; a weight or probability of 0 is off.

    A field added later has a default that keeps what older recipe.json files meant.

    Raises:
        ValueError: a value is out of its range, or two of them contradict each other.
    """

    name: str
    architecture: str
    height: int
    width: int
    num_epochs: int
    pooling: str = "average"
    follows_initial: bool = False  # architecture, input size and pooling are those of --init
    only_attention: bool = False  # train the RGA modules and the classifier, nothing else
    frozen_neck_statistics: bool = False
    recomputes: bool = False  # each stage again on the way back: less memory, more time
    seed: int = 0
    # batches
    identities_per_batch: int = 16  # P
    images_per_identity: int = 4  # K
    epoch_draws: str = "images"  # all images in an epoch, or each identity once with K of its images
    min_images_per_identity: int = 1  # identities with fewer are left out
    num_held_out: int = 0  # training identities kept apart, to judge by
    evaluate_every: int = 0  # epochs between two judgements by the held-out identities, for best.safetensors
    # steps
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    momentum: float = 0.9  # of SGD
    schedule: str = "cosine"
    schedule_per: str = "step"  # the rate moves with every step, or is the same for a whole epoch
    warmup_epochs: float = 1.0
    warmup_start_factor: float = 0.01
    milestones: tuple[int, ...] = ()  # epochs at which the step schedule multiplies the rate
    milestone_factor: float = 0.5
    accumulation_steps: int = 1  # batches whose gradients make one step
    precision: str = "auto"  # bf16 where the device computes in it, else fp16 on CUDA and fp32 on a processor
    ema_decay: float = 0.999
    # losses
    identity_weight: float = 1.0
    label_smoothing: float = 0.1
    triplet: str = "hard"
    triplet_margin: float = 0.3
    circle_weight: float = 0.0
    circle_margin: float = 0.25
    circle_scale: float = 64.0
    centre_weight: float = 0.0
    centre_rate: float = 0.5
    teacher_weight: float = 20.0
    teacher_relations_weight: float = 0.0
    compatible_weight: float = 1.0  # of an old network's classifier; at 0 it is measured alone
    compatible_scale: float = 16.0  # of that classifier's cosines
    # augmentation
    flip_probability: float = 0.5
    crop_padding: int = 8
    translation_probability: float = 0.0
    translation_scale: float = 1.125
    auto_augment: str = "none"
    auto_augment_probability: float = 1.0
    jitter_brightness: float = 0.0
    jitter_contrast: float = 0.0
    jitter_saturation: float = 0.0
    jitter_hue: float = 0.0
    erasing_probability: float = 0.5

    def __post_init__(self) -> None:
        """Check every value."""
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} of the recipe is {getattr(self, name)!r}; there are {', '.join(allowed)}"
                )
        for name, smallest in _COUNTS.items():
            value = getattr(self, name)
            _check(name, value, type(value) is int and value >= smallest)
        for name in ("follows_initial", "only_attention", "frozen_neck_statistics", "recomputes"):
            _check(name, getattr(self, name), isinstance(getattr(self, name), bool))
        for name in _FRACTIONS:
            self._check_number(name, 0, 1)
        for name in _NOT_NEGATIVE:
            self._check_number(name, 0, math.inf)
        self._check_number("jitter_hue", 0, 0.5)
        self._check_number("translation_scale", 1, math.inf)
        self._check_number("learning_rate", 0, math.inf)
        _check("learning_rate", self.learning_rate, self.learning_rate > 0)
        self._check_together()

    @property
    def batch_size(self) -> int:
        """P x K."""
        return self.identities_per_batch * self.images_per_identity

    def to_json(self) -> str:
        """Return the recipe as readable JSON."""
        return json.dumps(asdict(self), indent=2)

    def _check_number(self, name: str, smallest: float, largest: float) -> None:
        value = getattr(self, name)
        is_number = isinstance(value, int | float) and math.isfinite(value)
        _check(name, value, is_number and smallest <= value <= largest)

    def _check_together(self) -> None:
        milestones = self.milestones
        is_list = isinstance(milestones, list | tuple) and all(type(epoch) is int for epoch in milestones)
        _check("milestones", milestones, is_list and list(milestones) == sorted({0, *milestones} - {0}))
        object.__setattr__(self, "milestones", tuple(milestones))  # JSON has lists only
        if milestones and self.schedule != "step":
            raise ValueError(f"milestones belong to the step schedule, the recipe's is {self.schedule}")
        if min(self.identities_per_batch, self.images_per_identity) < 2:
            raise ValueError("a batch needs at least 2 identities with 2 images each to mine triplets")
        if self.evaluate_every and not self.num_held_out:
            raise ValueError("evaluate_every needs num_held_out: people who are not trained on, to judge by")


def _check(name: str, value: object, is_valid: bool) -> None:
    if not is_valid:
        raise ValueError(f"{name} of the recipe is out of range: {value!r}")
