"""The field `verification` of a card: what cosines of its network mean, and how that was measured."""

from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from model.card_text import STRICT, Text

MAX_IDENTITIES = 1 << 30


class ThresholdRow(BaseModel):
    """A threshold on the cosine, and the error rates that were measured for it.

    Args:
        fmr: fraction of the pairs of different people at or above the threshold (false-match rate).
        cosine: the threshold.
        hit_rate: fraction of the pairs of one person at or above the threshold.
    """

    model_config = STRICT

    fmr: Annotated[float, Field(ge=1e-12, le=1)]
    cosine: Annotated[float, Field(ge=-1, le=1.01)]
    hit_rate: Annotated[float, Field(ge=0, le=1)]


class LogisticCurve(BaseModel):
    """The probability that a pair shows one person, 1 / (1 + exp(-(slope * cosine + intercept)))."""

    model_config = STRICT

    slope: Annotated[float, Field(ge=0, le=1e6)]
    intercept: Annotated[float, Field(ge=-1e6, le=1e6)]


class StrangerRow(BaseModel):
    """A cosine, and the rate of strangers whose best item reaches it.

    Args:
        rate: fraction of the pairs of a query and another identity.
        cosine: the lowest cosine that at most this share reaches.
    """

    model_config = STRICT

    rate: Annotated[float, Field(ge=1e-12, le=1)]
    cosine: Annotated[float, Field(ge=-1, le=1.01)]


class Strangers(BaseModel):
    """Stranger rates, as ``StrangerRates.to_dict`` returns them.

    Args:
        num_identities: the people that the rates were counted on.
        num_pairs: the pairs of a query and another identity.
        rates: 3 to 100 rows; the cosine never falls as ``rate`` falls.
        data: the images that the rates were counted on, in words.
    """

    model_config = STRICT

    num_identities: Annotated[int, Field(ge=2, le=MAX_IDENTITIES)]
    num_pairs: Annotated[int, Field(ge=1, le=1 << 62)]
    rates: Annotated[list[StrangerRow], Field(min_length=3, max_length=100)]
    data: Text

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        cosines = [row.cosine for row in sorted(self.rates, key=lambda row: -row.rate)]
        if cosines != sorted(cosines) or len({row.rate for row in self.rates}) < len(self.rates):
            raise ValueError("must have cosines that never fall as rate falls, and no rate twice")
        return self


class Verification(BaseModel):
    """Thresholds and calibration, as ``PairScores.verification`` returns them, and stranger rates.

    Args:
        thresholds: 1 to 100 rows; the cosine rises as ``fmr`` falls.
        calibration: from a cosine to a probability.
        data: the images that thresholds and calibration were measured on, in words.
        strangers: how often a stranger scores as high; None if that was not counted.
    """

    model_config = STRICT

    thresholds: Annotated[list[ThresholdRow], Field(min_length=1, max_length=100)]
    calibration: LogisticCurve
    data: Text
    strangers: Strangers | None = None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        cosines = [row.cosine for row in sorted(self.thresholds, key=lambda row: -row.fmr)]
        if cosines != sorted(cosines) or len({row.fmr for row in self.thresholds}) < len(self.thresholds):
            raise ValueError("must have thresholds that rise as fmr falls, and no fmr twice")
        return self
