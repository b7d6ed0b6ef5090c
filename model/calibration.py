"""What a cosine of two embeddings means: thresholds, error rates, and the probability of one person.

All follow from the cosines of many pairs of crops, some of one person and some of different people. Cosines
are counted in bins, because a large gallery has more pairs than fit in memory.

Shape legend: P pairs, B bins.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

BINS_A_UNIT = 10_000
"""Bins for each 1.0 of cosine. Bin b counts the cosines from -1 + b / 10,000 up to the next bin."""
NUM_BINS = 2 * BINS_A_UNIT + 1
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
KEPT_RATES = (1e-1, 1e-2, 1e-3, 1e-4)
"""Cards and evaluations hold the thresholds of these false-match rates."""

MAX_STEPS = 100
SMALLEST_STEP = 1e-9


@dataclass(frozen=True)
class Threshold:
    """A cosine from which two crops count as one person, and the error rates of that rule.

    Args:
        cosine: the lowest cosine that counts as one person, from -1 to 1.0001.
        false_match_rate: fraction 0-1 of the pairs of different people at or above the threshold.
        false_non_match_rate: fraction 0-1 of the pairs of one person below the threshold.
    """

    cosine: float
    false_match_rate: float
    false_non_match_rate: float


@dataclass(frozen=True)
class Calibration:
    """The probability that a pair shows one person: 1 / (1 + exp(-(slope * cosine + intercept)))."""

    slope: float
    intercept: float

    def probability(self, cosine: float) -> float:
        """Return the probability 0-1 that two crops show the same person, given equal prior odds.

        Args:
            cosine: of the two embeddings, from -1 to 1.

        >>> Calibration(10.0, -5.0).probability(0.5)
        0.5
        """
        log_odds = self.slope * cosine + self.intercept
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, log_odds))))


@dataclass(frozen=True)
class PairScores:
    """The number of pairs in each bin of cosines.

    Args:
        same: pairs of crops of one person, int64 (B).
        different: pairs of crops of different people, int64 (B).
    """

    same: Ints
    different: Ints

    def threshold(self, false_match_rate: float) -> Threshold:
        """Return the lowest threshold whose false-match rate is at most the given one.

        Args:
            false_match_rate: fraction 0-1 of the pairs of different people.

        Returns:
            The threshold. Its cosine is 1.0001 if the highest bin alone has too many pairs of different
            people.
        """
        rates = _share_from(self.different)
        place = int(np.argmax(rates <= false_match_rate)) if (rates <= false_match_rate).any() else NUM_BINS
        missed = 1 - _share_from(self.same)[place] if place < NUM_BINS else 1.0
        passed = rates[place] if place < NUM_BINS else 0.0
        return Threshold(_cosine(place), float(passed), float(missed))

    def quantiles(self) -> dict[str, list[float]]:
        """Return the cosines at QUANTILES of the pairs: a list for ``same`` and a list for ``different``."""
        return {"same": _quantiles(self.same), "different": _quantiles(self.different)}

    def calibrate(self) -> Calibration:
        """Fit a logistic curve to the pairs, so that a cosine becomes a probability.

        Source: Platt, "Probabilistic Outputs for Support Vector Machines", 1999. The targets are Platt's,
        (N + 1) / (N + 2) and 1 / (N + 2) rather than 1 and 0, so that the slope stays finite even if a
        threshold separates the pairs without an error. There are two deviations. All pairs of one person
        together weigh as much as all pairs of different people, because the numbers of pairs are not the odds
        of a search. The curve is fitted by Newton's method.

        Returns:
            The curve. Slope and intercept are 0, so every probability is 0.5, if pairs of one person do not
            have the higher cosines.
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
        """Return thresholds with their hit rates, and the calibration, as a card or an evaluation holds them.

        ``model.verification.Verification`` describes the fields. Its field ``data`` is left to the caller.
        """
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
    """Return the bin of each cosine.

    Args:
        cosines: of vectors of length 1, in any shape.

    Returns:
        int64 in the same shape, from 0 to NUM_BINS - 1.

    >>> cosine_bins(np.array([-1.0, 0.00005, 1.0])).tolist()
    [0, 10000, 20000]
    """
    places = cosines + 1
    places *= BINS_A_UNIT
    bins: Ints = places.astype(np.int64)  # truncated: rounding beyond -1 or 1 stays in the last bins
    return bins


def _fit_logistic(
    cosines_P: NDArray[np.float64], weights_P: NDArray[np.float64], wanted_P: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the slope and the intercept of the highest likelihood.

    Args:
        cosines_P: one for each bin that has pairs.
        weights_P: weight of each bin.
        wanted_P: weight of each bin times its target.
    """
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
    """Return for each bin the fraction of pairs in that bin and in higher bins."""
    shares: NDArray[np.float64] = counts[::-1].cumsum()[::-1] / counts.sum()
    return shares


def _quantiles(counts: Ints) -> list[float]:
    shares = counts.cumsum() / counts.sum()
    return [_cosine(int(np.searchsorted(shares, quantile))) for quantile in QUANTILES]
