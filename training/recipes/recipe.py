"""The recipe of a training run: every number of the run, validated. Each run writes its recipe.json."""

import json
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, Strict, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from model.layers import POOLINGS

AutoAugmentPolicy = Literal["none", "auto_augment", "rand_augment", "trivial_augment", "aug_mix"]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]

_OLD_NAMES = {"recomputes": "gradient_checkpointing", "epoch_draws": "sampler"}
"""Names that fields had in recipe.json before they were renamed."""


def _check_pooling(pooling: str) -> str:
    if pooling not in POOLINGS:
        raise ValueError(f"there are {', '.join(POOLINGS)}")
    return pooling


def _check_order(epochs: tuple[int, ...]) -> tuple[int, ...]:
    if list(epochs) != sorted(set(epochs)):
        raise ValueError("must rise from each epoch to the next")
    return epochs


Milestones = Annotated[tuple[Count, ...], Strict(strict=False), AfterValidator(_check_order)]
"""Epochs in rising order, also as a list, because JSON has no tuples."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Recipe:
    """How a network is trained.

    Probabilities are 0-1 and sizes are in pixels. A weight or a probability of 0 turns its
    loss or change off. A field that is added later gets a default with which an older recipe.json means what
    it meant.

    Raises:
        ValueError: a value has another type or is out of its range, or two values contradict each other.
    """

    name: str
    architecture: str
    height: Count
    width: Count
    num_epochs: Count
    pooling: Annotated[str, AfterValidator(_check_pooling)] = "average"
    follows_initial: bool = False  # architecture, input size and pooling are those of --init
    only_attention: bool = False  # train the RGA modules and the classifier alone
    frozen_neck_statistics: bool = False
    gradient_checkpointing: bool = False  # each stage twice: less memory, more time
    seed: CountOrZero = 0
    # batches
    identities_per_batch: Count = 16  # P
    images_per_identity: Count = 4  # K
    sampler: Literal["images", "identities"] = "images"  # an epoch is all images, or K of each identity
    min_images_per_identity: Count = 1  # identities with fewer are left out
    num_held_out: CountOrZero = 0  # training identities that are not trained on, for evaluate_every
    evaluate_every: CountOrZero = 0  # epochs between two evaluations that choose best.safetensors
    # steps
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: NotNegative = 5e-4
    momentum: Fraction = 0.9  # of SGD
    schedule: Literal["cosine", "step"] = "cosine"
    schedule_per: Literal["step", "epoch"] = "step"  # how often the learning rate changes
    warmup_epochs: NotNegative = 1.0
    warmup_start_factor: Fraction = 0.01  # of the learning rate, in the first step
    milestones: Milestones = ()  # epochs at which the step schedule multiplies the rate
    milestone_factor: Fraction = 0.5
    accumulation_steps: Count = 1  # batches whose gradients make one step
    # "auto" is bf16 on a device that computes in it; otherwise fp16 on CUDA and fp32 on a CPU
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    ema_decay: Fraction = 0.999
    # losses
    identity_weight: NotNegative = 1.0
    label_smoothing: Fraction = 0.1
    triplet: Literal["hard", "soft", "none"] = "hard"
    triplet_margin: NotNegative = 0.3
    circle_weight: NotNegative = 0.0
    circle_margin: Fraction = 0.25
    circle_scale: NotNegative = 64.0
    centre_weight: NotNegative = 0.0
    centre_rate: Fraction = 0.5
    teacher_weight: NotNegative = 20.0
    teacher_relations_weight: NotNegative = 0.0
    compatible_weight: NotNegative = 1.0  # of the influence loss; at 0 compatibility is only measured
    compatible_scale: NotNegative = 16.0  # of the cosines in the influence loss
    # augmentation
    flip_probability: Fraction = 0.5
    crop_padding: CountOrZero = 8
    translation_probability: Fraction = 0.0
    translation_scale: Annotated[float, Field(ge=1)] = 1.125
    auto_augment: AutoAugmentPolicy = "none"
    auto_augment_probability: Fraction = 1.0
    jitter_brightness: NotNegative = 0.0
    jitter_contrast: NotNegative = 0.0
    jitter_saturation: NotNegative = 0.0
    jitter_hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    erasing_probability: Fraction = 0.5

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.milestones and self.schedule != "step":
            raise ValueError(f"milestones belong to the step schedule, the recipe's is {self.schedule}")
        if min(self.identities_per_batch, self.images_per_identity) < 2:
            raise ValueError("a batch needs at least 2 identities with 2 images each to mine triplets")
        if self.evaluate_every and not self.num_held_out:
            raise ValueError(
                "evaluate_every needs num_held_out: identities that are not trained on, to evaluate by"
            )
        return self

    @property
    def batch_size(self) -> int:
        """P x K."""
        return self.identities_per_batch * self.images_per_identity

    def to_json(self) -> str:
        """Return the recipe as readable JSON."""
        return json.dumps(asdict(self), indent=2)


def parse_recipe(text: str, source: str) -> Recipe:
    """Read a recipe from its JSON, in which fields may have the names of older versions.

    Args:
        text: the JSON of the recipe.
        source: name of the file, for the message of an error.

    Raises:
        ValueError: the text is no JSON object, or a field is missing, unknown, of another type or out of its
            range. The message names the field.
    """
    try:
        values: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{source} cannot be read as a recipe: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{source} is not a recipe: a recipe is a JSON object")  # noqa: TRY004 - of a file
    for name in _OLD_NAMES.keys() & values.keys():
        values[_OLD_NAMES[name]] = values.pop(name)
    try:
        return Recipe(**values)
    except ValidationError as error:
        raise ValueError(f"{source} is not a recipe: {_in_words(error)}") from error


def _in_words(error: ValidationError) -> str:
    """Say what is wrong with each field, such as ``seed of the recipe is -1: must be ...``."""
    return "; ".join(map(_describe_problem, error.errors(include_url=False)))


def _describe_problem(problem: ErrorDetails) -> str:
    name, cause = ".".join(map(str, problem["loc"])), problem["msg"]
    if problem["type"] == "missing":
        return f"{name} is missing"
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown {name}"
    cause = cause.removeprefix("Value error, ").replace("Input should", "must", 1)
    if not name:  # two fields contradict each other, and the message names them
        return cause
    if problem["type"] == "literal_error":
        cause = "there are " + problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
    return f"{name} of the recipe is {problem['input']!r}; {cause}"
