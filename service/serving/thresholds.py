"""Is it the same person? What scores are called, from thresholds that belong to one model version.

They come from the newest evaluation of the version on this gallery, or else from its card: what a threshold
lets through differs from site to site (see model/weights/MODEL_CARD.md).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from model.calibration import Calibration
from model.checkpoint import DEFAULT_CHECKPOINT
from service.store.tables import Model

SHIPPED = DEFAULT_CHECKPOINT.with_name("verification.json")
"""What would stand in the cards of shipped versions, which are older than the field."""

UNSURE_FACTOR = 10
MIN_FALSE_MATCHES = 10
"""An evaluation is believed if the wanted rate is so many or more of its pairs of different people."""

Decision = Literal["match", "unsure", "unknown"]
Source = Literal["evaluation", "card", "none"]


@dataclass(frozen=True)
class Thresholds:
    """A score from `match` on is a match, one from `unsure` on may be; without a source nothing is said.

    `evaluated_at` is of the evaluation of this version that the caller has seen, whether it is the source.
    """

    match: float | None = None
    unsure: float | None = None
    source: Source = "none"
    calibration: Calibration | None = None
    evaluated_at: str | None = None

    def decide(self, score: float) -> Decision | None:
        """Say what a score means.

        >>> [Thresholds(0.5, 0.4).decide(score) for score in (0.5, 0.4, 0.3)]
        ['match', 'unsure', 'unknown']
        """
        if self.match is None or self.unsure is None:
            return None
        return "match" if score >= self.match else "unsure" if score >= self.unsure else "unknown"

    def probability(self, score: float) -> float | None:
        """Return how likely this score is of one person, where half of all pairs are."""
        return None if self.calibration is None else round(self.calibration.probability(score), 4)

    def to_dict(self) -> dict[str, Any]:
        """Return what answers say of them."""
        return {"match": self.match, "unsure": self.unsure, "source": self.source}


def find_thresholds(session: Session, version: str, target_fmr: float) -> Thresholds:
    """Return the decisions of a registered version at a false-match rate."""
    statement = select(Model.card, Model.evaluation).where(Model.version == version)
    card, evaluation = session.execute(statement).one()
    return thresholds_of(version, card, evaluation, target_fmr)


def thresholds_of(
    version: str, card: Mapping[str, Any], evaluation: Mapping[str, Any] | None, target_fmr: float
) -> Thresholds:
    """Return the decisions at a false-match rate: `match` at it, `unsure` at ten times it.

    Of an evaluation, if its pairs are enough to measure that rate; or else of the card, or of what is shipped
    beside the checkpoint. Rates between those that are kept are interpolated by their logarithm; those beyond
    them have the thresholds of the last one.
    """
    evaluated_at = None if evaluation is None else str(evaluation["evaluated_at"])
    if evaluation and evaluation["num_different_pairs"] * target_fmr >= MIN_FALSE_MATCHES:
        return _thresholds(evaluation, "evaluation", target_fmr, evaluated_at)
    if found := card.get("verification") or _shipped().get(version):
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


@cache
def _shipped() -> dict[str, dict[str, Any]]:
    """Read what is shipped beside the checkpoint."""
    verifications: dict[str, dict[str, Any]] = json.loads(SHIPPED.read_text())
    return verifications
