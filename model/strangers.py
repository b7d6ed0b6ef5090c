"""How often a stranger scores as high by chance: the tail of the best cosines of other people.

A search shows the best cosine of each identity. The stranger rate of a cosine is the chance that the best
item of one other identity reaches this cosine. The rate times the number of identities that are searched is
the number of strangers that a search expects at this cosine.

Shape legend: C a chunk of queries, G gallery, I identities, B bins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.calibration import BINS_A_UNIT, NUM_BINS, Ints, cosine_bins

STEPS = (10, 5.6, 3.2, 1.8)
"""Four steps to each power of ten."""

RATES = (0.99, 0.9, 0.7, 0.5, 0.3, *(float(f"{step}e-{power}") for power in range(2, 9) for step in STEPS))
"""The rates whose cosines are kept, as far as pairs were counted."""

MIN_PAIRS = 100
"""A rate is counted if at least this many pairs of a query and an identity are expected at its cosine."""

MIN_IDENTITIES = 50
"""Fewer identities say too little: with 25, one pair of people who look alike shifts all rare rates."""

MAX_LOWEST_RATE = 1e-2
"""Rates must be counted down to this one, because the line beyond them follows the tail, not the bulk."""

ROWS_OF_SLOPE = 5
"""The line beyond the counted rates goes through the last of so many rows: one power of ten."""


@dataclass(frozen=True)
class StrangerRates:
    """The stranger rate of each cosine, from the cosines of some rates.

    Between two kept rates the logarithm of the rate is linear in the cosine. Beyond the lowest kept rate it
    goes on along a line with the slope of the last power of ten, because the tail is an exponential one: the
    decision about strangers in docs/decisions/ compares this with fits of a generalised Pareto tail.

    Args:
        rates: three or more, falling, each above 0 and at most 1.
        cosines: the lowest cosine that at most this share of strangers reaches; never falling.
        num_identities: the people that the rates were counted on.
        num_pairs: the pairs of a query and another identity.
    """

    rates: tuple[float, ...]
    cosines: tuple[float, ...]
    num_identities: int
    num_pairs: int

    @classmethod
    def count(cls, counts_B: Ints, num_identities: int) -> "StrangerRates | None":
        """Take the rates from the counted best cosines, or return None if there are too few to say.

        Args:
            counts_B: int64 (B,), as `BestOfStrangers.count` returns them, added up.
            num_identities: the people of whom there are queries.
        """
        num_pairs = int(counts_B.sum())
        rates = tuple(rate for rate in RATES if rate * num_pairs >= MIN_PAIRS)
        if num_identities < MIN_IDENTITIES or not rates or rates[-1] > MAX_LOWEST_RATE:
            return None
        reached_B = counts_B[::-1].cumsum()[::-1]
        bins = [int(np.count_nonzero(reached_B > rate * num_pairs)) for rate in rates]
        cosines = tuple(round(place / BINS_A_UNIT - 1, 4) for place in bins)
        return cls(rates, cosines, num_identities, num_pairs)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StrangerRates":
        """Read what `to_dict` wrote; other fields are ignored."""
        rows = sorted(values["rates"], key=lambda row: -float(row["rate"]))
        return cls(
            tuple(row["rate"] for row in rows),
            tuple(row["cosine"] for row in rows),
            values["num_identities"],
            values["num_pairs"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the rates as a card or an evaluation holds them: ``model.verification.Strangers``."""
        rows = zip(self.rates, self.cosines, strict=True)
        return {
            "num_identities": self.num_identities,
            "num_pairs": self.num_pairs,
            "rates": [{"rate": rate, "cosine": cosine} for rate, cosine in rows],
        }

    def rate(self, cosine: float) -> float:
        """Return the chance 0-1 that the best item of one stranger reaches a cosine; never rises with it.

        Args:
            cosine: of the query and the best item of an identity, from -1 to 1.

        >>> rates = StrangerRates((0.1, 0.01, 0.001), (0.3, 0.4, 0.5), 100, 1_000_000)
        >>> tuple(round(rates.rate(cosine), 7) for cosine in (0.2, 0.35, 0.5, 0.7))
        (0.1, 0.0316228, 0.001, 1e-05)
        """
        return float(self._rate_of_bin[cosine_bins(np.array(cosine))])

    @cached_property
    def _rate_of_bin(self) -> NDArray[np.float64]:
        """Return the rate at the lower end of each bin, float64 (B,), never rising."""
        logs, cosines = np.log(self.rates), np.array(self.cosines)
        places_B = np.arange(NUM_BINS) / BINS_A_UNIT - 1
        logs_B = np.interp(places_B, cosines, logs)
        rise = cosines[-1] - cosines[-ROWS_OF_SLOPE:][0]
        if rise > 0:
            slope = (logs[-1] - logs[-ROWS_OF_SLOPE:][0]) / rise
            logs_B += slope * np.maximum(places_B - cosines[-1], 0)
        rates_B: NDArray[np.float64] = np.minimum.accumulate(np.exp(logs_B))
        return rates_B


class BestOfStrangers:
    """Counts the best cosine of each identity of a gallery, for queries of other identities.

    >>> counter = BestOfStrangers(np.array([7, 3, 7, 0]), left_out=(0,))
    >>> counts_B = counter.count(np.array([[0.5, 0.9, 0.6, 1.0]]), np.array([3]))
    >>> (np.flatnonzero(counts_B) / 10_000 - 1).round(4).tolist()
    [0.6]
    """

    def __init__(self, identities_G: Ints, *, left_out: tuple[int, ...] = ()) -> None:
        """Take the labels of the gallery.

        Args:
            identities_G: (G,), the identity of each item.
            left_out: identities that stand for no single person, such as distractors.
        """
        order = np.argsort(identities_G, kind="stable")
        self._order = order[~np.isin(identities_G[order], left_out)]
        self.identities_I, self._starts = np.unique(identities_G[self._order], return_index=True)

    def best(self, cosines_CG: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the best cosine of each identity, (C, I), in the order of `identities_I`."""
        best_CI: NDArray[np.floating] = np.maximum.reduceat(cosines_CG[:, self._order], self._starts, axis=1)
        return best_CI

    def count(self, cosines_CG: NDArray[np.floating], identities_C: Ints) -> Ints:
        """Count the best cosines of all identities but the query's own, int64 (B,).

        Args:
            cosines_CG: (C, G), from -1 to 1.
            identities_C: (C,), the identity of each query.
        """
        is_stranger_CI = identities_C[:, None] != self.identities_I
        return np.bincount(cosine_bins(self.best(cosines_CG)[is_stranger_CI]), minlength=NUM_BINS)
