"""What a cosine of two embeddings is worth: where those of one person and of two people lie.

Cosines are counted in bins, so that the pairs of a large gallery take no memory. Shape legend: P pairs,
B bins.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

BINS_A_UNIT = 10_000
"""Cosines are counted in steps of 0.0001, each with what lies up to a step above it."""
NUM_BINS = 2 * BINS_A_UNIT + 1
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
KEPT_RATES = (1e-1, 1e-2, 1e-3, 1e-4)
"""The false-match rates whose thresholds stand in cards and evaluations."""

MAX_STEPS = 100
SMALLEST_STEP = 1e-9


@dataclass(frozen=True)
class Threshold:
    """What is called the same person from this cosine on; rates are fractions 0-1."""

    cosine: float
    false_match_rate: float  # of the pairs of different people, those at or above it
    false_non_match_rate: float  # of the pairs of one person, those below it


@dataclass(frozen=True)
class Calibration:
    """How likely a pair shows one person: 1 / (1 + exp(-(slope * cosine + intercept)))."""

    slope: float
    intercept: float

    def probability(self, cosine: float) -> float:
        """Return it for a pair of which nothing else is known, where half of all pairs show one person.

        >>> Calibration(10.0, -5.0).probability(0.5)
        0.5
        """
        log_odds = self.slope * cosine + self.intercept
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, log_odds))))


@dataclass(frozen=True)
class PairScores:
    """How many pairs of one person, and of different people, have each cosine: int64 (B)."""

    same: Ints
    different: Ints

    def threshold(self, false_match_rate: float) -> Threshold:
        """Return the lowest threshold that lets through no more than this share of different people."""
        rates = _share_from(self.different)
        place = int(np.argmax(rates <= false_match_rate)) if (rates <= false_match_rate).any() else NUM_BINS
        missed = 1 - _share_from(self.same)[place] if place < NUM_BINS else 1.0
        passed = rates[place] if place < NUM_BINS else 0.0
        return Threshold(_cosine(place), float(passed), float(missed))

    def quantiles(self) -> dict[str, list[float]]:
        """Return the cosines below which QUANTILES of the pairs lie, of ``same`` and ``different``."""
        return {"same": _quantiles(self.same), "different": _quantiles(self.different)}

    def calibrate(self) -> Calibration:
        """Fit a logistic curve to the pairs; those of one person weigh as much as those of two.

        By Newton's method. Half a chance in N + 1 of an error is left on either side (Platt 1999), so that
        pairs that a threshold parts perfectly have a finite slope too. Where cosines fall with likeness, or
        say nothing, the probability is 0.5 throughout.
        """
        cosines_B = (np.arange(NUM_BINS) + 0.5) / BINS_A_UNIT - 1
        counts = np.stack([self.same, self.different]).astype(np.float64)
        used_B = counts.any(axis=0)
        num_same, num_different = counts.sum(axis=1)
        same_B, different_B = counts[0, used_B] / num_same / 2, counts[1, used_B] / num_different / 2
        targets = (num_same + 1) / (num_same + 2), 1 / (num_different + 2)
        wanted_B = same_B * targets[0] + different_B * targets[1]
        slope, intercept = _fit_logistic(cosines_B[used_B], same_B + different_B, wanted_B)
        return Calibration(slope, intercept) if slope > 0 else Calibration(0.0, 0.0)

    def verification(self) -> dict[str, Any]:
        """Return what a card or an evaluation keeps: thresholds with their hit rates, and the calibration."""
        calibration = self.calibrate()
        found = [(rate, self.threshold(rate)) for rate in KEPT_RATES]
        return {
            "thresholds": [
                {"fmr": rate, "cosine": one.cosine, "hit_rate": round(1 - one.false_non_match_rate, 6)}
                for rate, one in found
            ],
            "calibration": {
                "slope": round(calibration.slope, 4),
                "intercept": round(calibration.intercept, 4),
            },
        }


def cosine_bins(cosines: NDArray[np.floating]) -> Ints:
    """Return the bin of each cosine of unit vectors, in the same shape.

    >>> cosine_bins(np.array([-1.0, 0.00005, 1.0])).tolist()
    [0, 10000, 20000]
    """
    places = cosines + 1
    places *= BINS_A_UNIT
    bins: Ints = places.astype(np.int64)  # what rounding puts beyond -1 or 1 is still in the last bins
    return bins


def _fit_logistic(
    cosines_P: NDArray[np.float64], weights_P: NDArray[np.float64], wanted_P: NDArray[np.float64]
) -> tuple[float, float]:
    """Return slope and intercept of the highest likelihood; ``wanted_P`` is weight times target."""
    inputs_2P = np.stack([cosines_P, np.ones_like(cosines_P)])
    fit_2 = np.zeros(2)
    best = _likelihood(fit_2 @ inputs_2P, weights_P, wanted_P)
    for _ in range(MAX_STEPS):
        chances_P = 1 / (1 + np.exp(-np.clip(fit_2 @ inputs_2P, -700, 700)))
        gradient_2 = inputs_2P @ (wanted_P - weights_P * chances_P)
        curvature_22 = (inputs_2P * (weights_P * chances_P * (1 - chances_P))) @ inputs_2P.T
        step_2 = np.linalg.solve(curvature_22 + 1e-12 * np.eye(2), gradient_2)
        while np.abs(step_2).max() > SMALLEST_STEP:
            likelihood = _likelihood((fit_2 + step_2) @ inputs_2P, weights_P, wanted_P)
            if likelihood >= best:
                break
            step_2 /= 2
        else:
            break
        fit_2, best = fit_2 + step_2, likelihood
    return float(fit_2[0]), float(fit_2[1])


def _likelihood(
    log_odds_P: NDArray[np.float64], weights_P: NDArray[np.float64], wanted_P: NDArray[np.float64]
) -> float:
    return float(wanted_P @ log_odds_P - weights_P @ np.logaddexp(0, log_odds_P))


def _cosine(place: int) -> float:
    return round(place / BINS_A_UNIT - 1, 4)


def _share_from(counts: Ints) -> NDArray[np.float64]:
    """Return of each bin the share of pairs in it and above."""
    shares: NDArray[np.float64] = counts[::-1].cumsum()[::-1] / counts.sum()
    return shares


def _quantiles(counts: Ints) -> list[float]:
    shares = counts.cumsum() / counts.sum()
    return [_cosine(int(np.searchsorted(shares, quantile))) for quantile in QUANTILES]
