"""The card of a checkpoint: what is known of its network, as JSON in the header of the file.

A card that this code builds is trusted. A card from a file is checked whole by pydantic before anything of it
is kept: the types, ranges and lengths stand beside the fields.
"""

import json
import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from model.card_text import STRICT, Name, Text
from model.errors import CheckpointError
from model.preprocess import IMAGENET_MEAN, IMAGENET_STD, Color
from model.verification import MAX_IDENTITIES, Verification

FOREIGN = "openvino"
"""The architecture of a foreign network, which OpenVINO runs and torch does not."""

MAX_CARD_LENGTH = 1 << 18
"""Characters. A longer card is not parsed, because a card of 700,000 unknown fields took 3.4 s and 650 MB."""

MAX_METRICS = 100
MAX_METRIC = 1e9
MAX_SCALE = 1e6
"""The largest mean or standard deviation; the reciprocal of the smallest standard deviation."""

MAX_SIDE = 1024
MAX_DIMENSIONS = 1 << 26
NUM_PROBLEMS_TOLD = 3

_WORDS = {
    "json_invalid": "is no JSON that can be read",
    "missing": "is missing",
    "unexpected_keyword_argument": "is not a field of a card",
    "extra_forbidden": "does not belong there",
}
_OPENING = re.compile("^((Dictionary|Input|List|String|Tuple) should|Value error, must) ")
"""How pydantic begins a message."""

Metric = Annotated[float, Field(ge=-MAX_METRIC, le=MAX_METRIC, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class Compatibility(BaseModel):
    """The old model version whose gallery the new network searches, without embedding the gallery again.

    Args:
        version: the old model version, which embedded the gallery.
        rank1_cross: rank-1 of queries of the new network in that gallery, in percent.
        mAP_cross: mAP of queries of the new network in that gallery, in percent.
        rank1_old: rank-1 of queries of the old version in that gallery, in percent.
        mAP_old: mAP of queries of the old version in that gallery, in percent.
        is_strict: both results of the new network are better than those of the old version.
    """

    model_config = STRICT

    version: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    rank1_cross: Percent
    mAP_cross: Percent  # noqa: N815 - the name that stands in cards
    rank1_old: Percent
    mAP_old: Percent  # noqa: N815
    is_strict: bool = False


def _as(model: type[BaseModel]) -> AfterValidator:
    """Check a JSON object against a class, and keep the object as the file has it."""

    def check(values: dict[str, Any]) -> dict[str, Any]:
        model.model_validate(values)
        return values

    return AfterValidator(check)


def _check_finite(values: Color) -> Color:
    if not all(map(math.isfinite, values)):
        raise ValueError("must be three finite numbers")
    return values


def _check_positive(values: Color) -> Color:
    if min(values) <= 0:
        raise ValueError("must be three numbers above zero")
    if min(values) < 1 / MAX_SCALE:
        raise ValueError(f"must be three numbers of at least {1 / MAX_SCALE:g}")
    return values


def _check_scale(values: Color) -> Color:
    if max(map(abs, values)) > MAX_SCALE:
        raise ValueError(f"must be three numbers of at most {MAX_SCALE:g}")
    return values


Mean = Annotated[Color, AfterValidator(_check_finite), AfterValidator(_check_scale)]
Std = Annotated[Mean, AfterValidator(_check_positive)]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a network.

    Args:
        architecture: a name that ``build_network`` knows, or ``openvino`` for a foreign network.
        height: of the images that the network reads, in pixels.
        width: of the images that the network reads, in pixels.
        embedding_size: numbers D in an embedding.
        num_identities: identities that the classifier was trained on; 0 for a foreign network.
        mean: of each channel in the training images, in RGB, where pixels are scaled to 0-1.
        std: standard deviation of each channel, likewise; above zero.
        feature: ``bn`` or ``pooled``, as in ``build_network``.
        pooling: ``average`` or ``gem``, as in ``build_network``.
        channels: order in which the network reads colours: ``rgb``, or ``bgr`` for some foreign networks.
        recipe: the recipe of the training run, or the file that was imported.
        dataset: what the network was trained on.
        metrics: results of the evaluation after training, in percent.
        verification: fields of ``Verification``.
        parent: version of the checkpoint that training started from.
        compatible_with: fields of ``Compatibility``.
        created: date and time in UTC, RFC 3339.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    architecture: Name
    height: Side
    width: Side
    embedding_size: Annotated[int, Field(ge=1, le=MAX_DIMENSIONS)]
    num_identities: Annotated[int, Field(ge=0, le=MAX_IDENTITIES)]
    mean: Mean = IMAGENET_MEAN
    std: Std = IMAGENET_STD
    feature: Name = "bn"
    pooling: Name = "average"
    channels: Annotated[str, Field(pattern="^(rgb|bgr)$")] = "rgb"
    recipe: Text = ""
    dataset: Text = ""
    metrics: Annotated[dict[Name, Metric], Field(max_length=MAX_METRICS)] = field(default_factory=dict)
    verification: Annotated[dict[str, Any], _as(Verification)] | None = None
    parent: Name | None = None
    compatible_with: Annotated[dict[str, Any], _as(Compatibility)] | None = None
    created: Name = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class _CardInFile(Card):
    """A card in a file, which must say its mean and std."""

    mean: Mean = field()
    std: Std = field()


_CARD_IN_FILE = TypeAdapter(_CardInFile)
_DESCRIPTIONS = {"recipe", "dataset", "metrics", "verification", "parent", "compatible_with", "created"}
_NEEDED = {one.name for one in fields(Card)} - _DESCRIPTIONS
"""Fields without which a network does not run."""


def parse_card(text: str, source: str) -> Card:
    """Read a card from its JSON, and check every field.

    Args:
        text: the JSON of the card.
        source: name of the file, for the message of an error.

    Raises:
        CheckpointError: the card is too long or no JSON object, or a field is missing, unknown, of the wrong
            type or out of its range.
    """
    if len(text) > MAX_CARD_LENGTH:
        raise CheckpointError(
            f"the card of {source} has {len(text):,} characters; at most {MAX_CARD_LENGTH:,} are read"
        )
    try:
        json.loads(text, object_pairs_hook=no_field_twice)
        card = Card(**vars(_CARD_IN_FILE.validate_json(text)))
    except ValidationError as error:
        raise CheckpointError(f"the card of {source} is refused: {_in_words(error)}") from error
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, FieldTwice) else "it is no JSON that can be read"
        raise CheckpointError(f"the card of {source} is refused: {reason}") from error
    if card.architecture != FOREIGN and card.num_identities < 1:
        raise CheckpointError(f"the card of {source} is refused: num_identities must be at least 1")
    if card.architecture != FOREIGN and card.channels != "rgb":
        raise CheckpointError(
            f"the card of {source} is refused: channels must be rgb, or bgr if it is foreign"
        )
    return card


def salvage_card(values: object, source: str) -> tuple[Card | None, str]:
    """Read a card that an older version of this program has kept, although it may break a rule of today.

    Args:
        values: the card as JSON values.
        source: name of the network, for the message.

    Returns:
        The card, and what is wrong with it, empty if nothing is. The card is without descriptions that are
        wrong. If a field is wrong that the network needs, there is no card.
    """
    given = dict(values) if isinstance(values, dict) else {}
    card, fault = _try_card(given, source)
    if card is not None:
        return card, ""
    usable = {"created": ""} | {name: given[name] for name in _NEEDED & given.keys()}
    for name in _DESCRIPTIONS & given.keys():
        if _try_card(usable | {name: given[name]}, source)[0] is not None:
            usable[name] = given[name]
    return _try_card(usable, source)[0], fault


def _try_card(values: dict[str, Any], source: str) -> tuple[Card | None, str]:
    try:
        return parse_card(json.dumps(values), source), ""
    except CheckpointError as error:
        return None, str(error)
    except (ValueError, TypeError, RecursionError):
        return None, f"the card of {source} is no JSON that can be read"


class FieldTwice(ValueError):
    """An object of JSON has two fields of one name."""


def no_field_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of an object of JSON, as `json.loads` calls it for every object.

    Raises:
        FieldTwice: two fields have one name, of which readers of JSON take one or the other.
    """
    names = Counter(name for name, _ in pairs)
    if len(names) < len(pairs):
        raise FieldTwice(f"{ascii(names.most_common(1)[0][0])[1:-1][:100]} stands there twice")
    return dict(pairs)


def _in_words(error: ValidationError) -> str:
    """Say what is wrong with the first few fields, such as ``height must be a valid integer``."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    told = []
    for problem in problems[:NUM_PROBLEMS_TOLD]:
        place = ascii(".".join(map(str, problem["loc"])) or "it")[1:-1][:100]
        told.append(f"{place} {_WORDS.get(problem['type']) or _OPENING.sub('must ', problem['msg'])}")
    more = f" and {len(problems) - len(told)} more" if len(problems) > len(told) else ""
    return "; ".join(told) + more
