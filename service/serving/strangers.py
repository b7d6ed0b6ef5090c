"""What a score of a search means: how many strangers are expected to reach it, and the decision that follows.

A search compares the query with many people, so its scores are judged by the number of people searched. The
rates of strangers come from the newest evaluation of the model version on this gallery, if that had enough
people, or else from the card of the version.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from model.strangers import StrangerRates

Decision = Literal["match", "unsure", "unknown"]
Source = Literal["evaluation", "card", "none"]


@dataclass(frozen=True)
class Strangers:
    """How many strangers a search expects by chance, and the decisions.

    Attributes:
        match_below: fewer expected strangers than this make a match.
        unsure_below: fewer expected strangers than this are unsure.
        rates: how often one stranger reaches a score, or None if that is not known.
        source: where the rates come from.
    """

    match_below: float = 0.05
    unsure_below: float = 1.0
    rates: StrangerRates | None = None
    source: Source = "none"

    def expected(self, score: float, num_identities: int) -> float | None:
        """Return how many of so many strangers are expected to reach a score, to three digits.

        >>> rates = StrangerRates((0.1, 0.01, 0.001), (0.3, 0.4, 0.5), 100, 1_000_000)
        >>> Strangers(rates=rates).expected(0.45, 12)
        0.0379
        """
        return None if self.rates is None else float(f"{self.rates.rate(score) * num_identities:.3g}")

    def decide(self, expected: float | None) -> Decision | None:
        """Return the decision for a number of expected strangers, or None if that is not known.

        >>> [Strangers().decide(expected) for expected in (0.0499, 0.05, 1.0, None)]
        ['match', 'unsure', 'unknown', None]
        """
        if expected is None:
            return None
        if expected < self.match_below:
            return "match"
        return "unsure" if expected < self.unsure_below else "unknown"


def strangers_of(
    verification: Mapping[str, Any] | None,
    evaluation: Mapping[str, Any] | None,
    match_below: float,
    unsure_below: float,
) -> Strangers:
    """Return what decides a search, by an evaluation if that counted strangers, or else by a card.

    Args:
        verification: the field of the card, if there is one. A card of an older version lacks the rates.
        evaluation: the newest evaluation of the version, if any. It lacks the rates if it had too few people,
            or was made by an older version of this program.
        match_below: fewer expected strangers than this make a match.
        unsure_below: fewer expected strangers than this are unsure.
    """
    sources: tuple[tuple[Source, Mapping[str, Any] | None], ...] = (
        ("evaluation", evaluation),
        ("card", verification),
    )
    for source, known in sources:
        if known and (counted := known.get("strangers")):
            return Strangers(match_below, unsure_below, StrangerRates.from_dict(counted), source)
    return Strangers(match_below, unsure_below)
