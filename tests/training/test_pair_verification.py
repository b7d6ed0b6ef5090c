"""Thresholds on the cosine, against plain loops over pairs."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.calibration import QUANTILES, PairScores, Threshold
from training.metrics.verification import FALSE_MATCH_RATES, score_pairs


def draw(seed: int) -> tuple[NDArray[Any], ...]:
    """Return embeddings of 9 queries and 40 gallery images around 5 people, distractors and junk too."""
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(8, 6))
    q_pids, g_pids = rng.integers(1, 6, 9), rng.integers(-1, 6, 40)
    q_pids[0], g_pids[0], g_pids[1] = 1, 1, 2
    q_camids, g_camids = rng.integers(1, 3, 9), rng.integers(1, 3, 40)
    q_camids[0], g_camids[0] = 1, 2
    queries = people[q_pids] + rng.normal(size=(9, 6)) * 0.4
    gallery = people[g_pids] + rng.normal(size=(40, 6)) * 0.4
    return queries, gallery, q_pids, g_pids, q_camids, g_camids


def loop_cosines(
    queries: NDArray[np.float64],
    gallery: NDArray[np.float64],
    q_pids: NDArray[np.int64],
    g_pids: NDArray[np.int64],
    q_camids: NDArray[np.int64],
    g_camids: NDArray[np.int64],
) -> tuple[list[float], list[float]]:
    """Return the cosines of pairs of the same person and of different people, rounded down to 0.0001."""
    same, different = [], []
    for q, query in enumerate(queries):
        for g, item in enumerate(gallery):
            cosine = float(query @ item / math.sqrt(query @ query) / math.sqrt(item @ item))
            rounded = math.floor(cosine * 10_000) / 10_000
            if g_pids[g] == -1:
                continue
            if g_pids[g] != q_pids[q]:
                different.append(rounded)
            elif g_camids[g] != q_camids[q]:
                same.append(rounded)
    return same, different


@given(st.integers(0, 10_000), st.sampled_from(FALSE_MATCH_RATES), st.integers(1, 12))
def test_false_matches_and_misses_of_a_threshold_equal_the_loop(seed: int, rate: float, chunk: int) -> None:
    data = draw(seed)
    same, different = loop_cosines(*data)
    found = score_pairs(*data, chunk=chunk).threshold(rate)
    at = found.cosine - 1e-9
    assert found.false_match_rate == pytest.approx(sum(s > at for s in different) / len(different))
    assert found.false_non_match_rate == pytest.approx(sum(s <= at for s in same) / len(same))
    assert found.false_match_rate <= rate
    below = at - 1e-4  # the next lower threshold has too many false matches
    assert sum(s > below for s in different) / len(different) > rate


def test_quantiles_are_those_of_the_sorted_cosines() -> None:
    data = draw(3)
    found = score_pairs(*data).quantiles()
    for name, cosines in zip(("same", "different"), loop_cosines(*data), strict=True):
        ordered = sorted(cosines)
        wanted = [ordered[math.ceil(quantile * len(ordered)) - 1] for quantile in QUANTILES]
        np.testing.assert_allclose(found[name], wanted, atol=1e-9)


def test_people_that_look_alike_get_a_threshold_above_all_cosines() -> None:
    ones = np.ones((2, 4))
    scores = score_pairs(ones, ones, *(np.array(pair) for pair in ([1, 2], [1, 2], [1, 1], [2, 2])))
    assert scores.threshold(1e-3) == Threshold(1.0001, 0.0, 1.0)


@pytest.mark.parametrize(
    ("g_pids", "g_camids", "message"),
    [
        ([1, 1], [2, 2], "two different people"),
        ([2, -1], [2, 2], "the same person"),
        ([1, 2], [1, 1], "same"),
    ],
)
def test_one_kind_of_pair_alone_is_refused(g_pids: list[int], g_camids: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_pairs(np.eye(1, 4), np.eye(2, 4), *(np.array(x) for x in ([1], g_pids, [1], g_camids)))


def test_more_of_the_same_pairs_change_no_rate() -> None:
    data = draw(5)
    one = score_pairs(*data)
    assert PairScores(one.same * 7, one.different * 3).threshold(1e-2) == one.threshold(1e-2)
