"""Thresholds of a model version, by which `/verify` calls a score a match, unsure or unknown.

A verification asks about one pair. A search asks about many people, and goes by `strangers.py`. The
thresholds come from the newest evaluation of the version on this gallery, or else from the card of the
version. The evaluation is preferred because the false-match rate of a threshold differs from site to site
(see model/weights/MODEL_CARD.md).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from model.calibration import Calibration
from model.card import salvage_card
from model.checkpoint import DEFAULT_CHECKPOINT
from service.serving.strangers import Decision, Source, Strangers, strangers_of
from service.settings import Settings
from service.store.tables import Model

SHIPPED = DEFAULT_CHECKPOINT.with_name("verification.json")
"""The field `verification` of the shipped model versions, whose cards are older than the field."""

UNSURE_FACTOR = 10
"""`unsure` begins at this many times the target false-match rate."""

MIN_FALSE_MATCHES = 10
"""An evaluation is used if at least this many of its pairs of different people match at the target rate."""


@dataclass(frozen=True)
class Thresholds:
    """The thresholds and the calibration of one model version.

    Attributes:
        match: least score of a match, or None if no threshold is known.
        unsure: least score that may be a match, or None if no threshold is known.
        source: where the thresholds come from.
        calibration: turns a score into a probability.
        evaluated_at: time of the newest evaluation of the version, even if that is not the source.
        strangers: what decides a search.
    """

    match: float | None = None
    unsure: float | None = None
    source: Source = "none"
    calibration: Calibration | None = None
    evaluated_at: str | None = None
    strangers: Strangers = field(default_factory=Strangers)

    def decide(self, score: float) -> Decision | None:
        """Return the decision for a score, or None if no threshold is known.

        >>> [Thresholds(0.5, 0.4).decide(score) for score in (0.5, 0.4, 0.3)]
        ['match', 'unsure', 'unknown']
        """
        if self.match is None or self.unsure is None:
            return None
        return "match" if score >= self.match else "unsure" if score >= self.unsure else "unknown"

    def probability(self, score: float) -> float | None:
        """Return the calibrated chance that two crops show the same person, given equal prior odds."""
        return None if self.calibration is None else round(self.calibration.probability(score), 4)

    def to_dict(self) -> dict[str, Any]:
        """Return the thresholds as answers show them."""
        return {"match": self.match, "unsure": self.unsure, "source": self.source}


def find_thresholds(session: Session, version: str, settings: Settings) -> Thresholds:
    """Return the thresholds of a registered version, and what decides its searches, by the settings."""
    statement = select(Model.card, Model.evaluation).where(Model.version == version)
    card, evaluation = session.execute(statement).one()
    usable, _ = salvage_card(card, version)
    known = usable.to_dict() if usable else {}
    strangers = strangers_of(
        _verification(version, known), evaluation, settings.match_strangers, settings.unsure_strangers
    )
    return replace(thresholds_of(version, known, evaluation, settings.target_fmr), strangers=strangers)


def thresholds_of(
    version: str, card: Mapping[str, Any], evaluation: Mapping[str, Any] | None, target_fmr: float
) -> Thresholds:
    """Return the thresholds for a false-match rate: `match` at this rate, `unsure` at ten times this rate.

    The thresholds come from the evaluation, if it has enough pairs to measure the rate. Else they come from
    the card, or from the file beside the shipped checkpoint. A threshold between two known rates is
    interpolated over the logarithm of the rate. Beyond the known rates the nearest threshold holds.

    Args:
        version: the model version.
        card: the card of the version.
        evaluation: the result of the newest evaluation of the version, if any.
        target_fmr: the false-match rate, from 0 to 1.
    """
    evaluated_at = None if evaluation is None else str(evaluation["evaluated_at"])
    if evaluation and evaluation["num_different_pairs"] * target_fmr >= MIN_FALSE_MATCHES:
        return _thresholds(evaluation, "evaluation", target_fmr, evaluated_at)
    if found := _verification(version, card):
        return _thresholds(found, "card", target_fmr, evaluated_at)
    return Thresholds(evaluated_at=evaluated_at)


def _thresholds(
    found: Mapping[str, Any], source: Source, target_fmr: float, evaluated_at: str | None
) -> Thresholds:
    return Thresholds(
        match=_threshold(found, target_fmr),
        unsure=_threshold(found, target_fmr * UNSURE_FACTOR),
        source=source,
        calibration=Calibration(**found["calibration"]),
        evaluated_at=evaluated_at,
    )


def _threshold(verification: Mapping[str, Any], fmr: float) -> float:
    rows = sorted(verification["thresholds"], key=lambda row: float(row["fmr"]))
    logs, cosines = [math.log(row["fmr"]) for row in rows], [row["cosine"] for row in rows]
    return round(float(np.interp(math.log(fmr), logs, cosines)), 4)


def _verification(version: str, card: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the field `verification` of a card, or of the file beside the shipped checkpoint."""
    return card.get("verification") or _shipped().get(version)


@cache
def _shipped() -> dict[str, dict[str, Any]]:
    """Return the field `verification` of each shipped version."""
    verifications: dict[str, dict[str, Any]] = json.loads(SHIPPED.read_text(encoding="utf-8"))
    return verifications
