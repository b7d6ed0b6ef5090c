"""Judging labelled items, against plain loops, and against the training side where the protocols coincide."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.calibration import NUM_BINS, PairScores, cosine_bins
from service.versions.metrics import (
    NOWHERE,
    EvaluationResult,
    compare,
    draw_identities,
    evaluate,
    find_queries,
    viewpoints_of,
)
from training.metrics.ranking import evaluate_embeddings

Ints = NDArray[np.int64]


def draw(seed: int, num: int = 60, noise: float = 0.5) -> tuple[NDArray[np.float32], Ints, Ints]:
    """Return embeddings of items around people, whose they are, and where they were seen."""
    rng = np.random.default_rng(seed)
    keys, viewpoints = rng.integers(0, num // 6, num), rng.integers(0, 3, num)
    keys[:4], viewpoints[:4] = (0, 0, 1, 1), (0, 1, 0, 1)
    people = rng.normal(size=(num, 8))
    embeddings = people[keys] + noise * rng.normal(size=(num, 8))
    return embeddings.astype(np.float32), keys, viewpoints


def loop_places(keys: list[int], cameras: list[int], tracks: list[int]) -> list[int]:
    found = []
    for item, key in enumerate(keys):
        own = [other for other in range(len(keys)) if keys[other] == key]
        if len({cameras[other] for other in own} - {-1}) >= 2:
            found.append(cameras[item])
        elif len({tracks[other] for other in own} - {-1}) >= 2:
            found.append(tracks[item])
        else:
            found.append(NOWHERE)
    return found


def loop_judge(embeddings: NDArray[np.float32], keys: Ints, viewpoints: Ints) -> dict[str, Any]:
    unit = [row / np.linalg.norm(row) for row in embeddings]
    rows, same, different = [], [], []
    for q in range(len(keys)):
        gallery = [g for g in range(len(keys)) if keys[g] != keys[q] or viewpoints[g] != viewpoints[q]]
        matches = [g for g in gallery if keys[g] == keys[q]]
        if not matches:
            continue
        scores = {g: float(unit[q] @ unit[g]) for g in gallery}
        _, _, ranked = zip(*sorted((-scores[g], keys[g] == keys[q], g) for g in gallery), strict=True)
        ranks = [place for place, g in enumerate(ranked, start=1) if keys[g] == keys[q]]
        precisions = [hit / rank for hit, rank in enumerate(ranks, start=1)]
        rows.append((ranks[0], sum(precisions) / len(precisions), len(ranks) / ranks[-1]))
        same += [scores[g] for g in matches]
        different += [scores[g] for g in gallery if keys[g] != keys[q]]
    return {"rows": rows, "same": same, "different": different}


codes = st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 2), st.integers(-1, 2)), max_size=14)


@given(codes)
def test_places_are_those_of_a_loop(items: list[tuple[int, int, int]]) -> None:
    columns = [[item[place] for item in items] for place in range(3)]
    found = viewpoints_of(*(np.array(column, np.int64) for column in columns))
    assert found.tolist() == loop_places(*columns)


@given(st.integers(0, 10_000), st.floats(0.1, 2.0))
@examples(max_examples=40, deadline=None)
def test_queries_are_judged_as_a_loop_judges_them(seed: int, noise: float) -> None:
    data = draw(seed, 40, noise)
    found, wanted = evaluate(*data), loop_judge(*data)
    ranks, precisions, penalties = (np.array(column) for column in zip(*wanted["rows"], strict=True))
    np.testing.assert_array_equal(found.first_ranks + 1, ranks)
    np.testing.assert_allclose(found.average_precisions, precisions)
    np.testing.assert_allclose(found.inverse_penalties, penalties)
    for kind in ("same", "different"):
        counts = getattr(found.scores, kind)
        assert counts.sum() == len(wanted[kind])
        cosines = np.repeat(np.arange(NUM_BINS), counts) / 10_000 - 1
        np.testing.assert_allclose(cosines, np.sort(wanted[kind]), atol=1.1e-4)


@given(st.integers(0, 10_000))
@examples(max_examples=20, deadline=None)
def test_figures_are_those_of_training_on_the_same_protocol(seed: int) -> None:
    """Training searches a gallery that holds the query, and leaves it out as of its own camera."""
    embeddings, keys, viewpoints = draw(seed, 120)
    wanted = evaluate_embeddings(embeddings, embeddings, keys, keys, viewpoints, viewpoints).percent()
    found = evaluate(embeddings, keys, viewpoints).metrics()
    for name in ("rank1", "rank5", "mAP", "mINP"):
        assert found[name] == pytest.approx(wanted[name], abs=1e-3)


def test_a_network_that_embeds_all_alike_finds_nobody() -> None:
    _, keys, viewpoints = draw(1)
    found = evaluate(np.ones((len(keys), 8), np.float16), keys, viewpoints)
    assert found.metrics()["rank1"] == 0
    assert found.scores.calibrate().slope == 0


def test_half_precision_and_length_change_nothing_to_speak_of() -> None:
    embeddings, keys, viewpoints = draw(2, 300)
    whole, half = (
        evaluate(embeddings, keys, viewpoints),
        evaluate(3 * embeddings.astype(np.float16), keys, viewpoints),
    )
    assert whole.metrics()["mAP"] == pytest.approx(half.metrics()["mAP"], abs=0.5)


def test_of_too_many_queries_whole_identities_are_drawn_and_the_gallery_stays() -> None:
    embeddings, keys, viewpoints = draw(3, 300)
    few = evaluate(embeddings, keys, viewpoints, max_queries=60)
    assert 30 < len(few.first_ranks) <= 60
    assert few.num_gallery == 300
    every = find_queries(keys, viewpoints)
    for key in set(few.identity_keys.tolist()):
        assert (few.identity_keys == key).sum() == (keys[every] == key).sum()
    again = evaluate(embeddings, keys, viewpoints, max_queries=60)
    np.testing.assert_array_equal(again.identity_keys, few.identity_keys)
    assert draw_identities(np.zeros(5, np.int64), 2).all()


def judgement(keys: Ints, hits: NDArray[np.bool_]) -> EvaluationResult:
    """Return what became of queries that were found at once or not at all."""
    found = hits.astype(np.float64)
    nothing = np.zeros(NUM_BINS, np.int64)
    ranks, scores = np.where(hits, 0, 9), PairScores(nothing, nothing)
    return EvaluationResult(keys, ranks, found, found, scores, None, len(keys))


def test_the_interval_is_that_of_resampled_identities() -> None:
    rng = np.random.default_rng(0)
    keys = np.repeat(np.arange(50), rng.integers(1, 9, 50))
    better = rng.random(50)[keys] < 0.8  # the queries of an identity share their fate
    reference = rng.random(50)[keys] < 0.6
    found = compare(judgement(keys, better), judgement(keys, reference))["rank1"]
    gains = better.astype(int) - reference.astype(int)
    means = []
    for _ in range(2_000):
        people = rng.integers(0, 50, 50)
        drawn = np.concatenate([gains[keys == person] for person in people])
        means.append(100 * drawn.mean())
    assert found["value"] == pytest.approx(100 * gains.mean(), abs=1e-3)
    np.testing.assert_allclose([found["low"], found["high"]], np.percentile(means, [2.5, 97.5]), atol=2)
    naive = 1.96 * 100 * gains.std() / math.sqrt(len(gains))
    assert found["high"] - found["low"] > 2.4 * naive, "queries of one identity count as independent"


def test_the_same_against_itself_differs_by_nothing() -> None:
    one = evaluate(*draw(4))
    assert compare(one, one) == {name: {"value": 0, "low": 0, "high": 0} for name in ("rank1", "mAP")}
    with pytest.raises(ValueError, match="same queries"):
        compare(one, evaluate(*draw(5)))


@pytest.mark.parametrize("spoilt", [0.0, np.nan, np.inf])
def test_an_embedding_without_a_cosine_is_refused(spoilt: float) -> None:
    embeddings, keys, viewpoints = draw(6)
    embeddings[3] = spoilt
    with pytest.raises(ValueError, match="cosine"):
        evaluate(embeddings, keys, viewpoints)


def test_one_identity_or_no_match_is_refused() -> None:
    embeddings, keys, viewpoints = draw(7)
    with pytest.raises(ValueError, match="only one identity"):
        evaluate(embeddings, np.zeros_like(keys), viewpoints)
    with pytest.raises(ValueError, match="no query"):
        evaluate(embeddings, keys, np.zeros_like(viewpoints))


@given(st.integers(0, 10_000))
@examples(max_examples=20, deadline=None)
def test_the_calibration_is_where_the_likelihood_is_highest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    same, different = rng.normal(0.5, 0.15, 200).clip(-1, 1), rng.normal(0.1, 0.15, 3_000).clip(-1, 1)
    counts = [np.bincount(cosine_bins(cosines), minlength=NUM_BINS) for cosines in (same, different)]
    found = PairScores(*counts).calibrate()

    def loss(slope: float, intercept: float) -> float:
        total = 0.0
        for cosines, target in ((same, 201 / 202), (different, 1 / 3_002)):
            odds = slope * cosines + intercept
            total += float(np.mean(np.logaddexp(0, odds) - target * odds)) / 2
        return total

    best = loss(found.slope, found.intercept)
    for slope, intercept in ((0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05), (0.3, -0.1), (-0.3, 0.1)):
        assert loss(found.slope + slope, found.intercept + intercept) > best
    assert found.probability(0.9) > 0.5 > found.probability(-0.2)


def test_pairs_that_a_threshold_parts_have_a_finite_slope_and_are_told_apart() -> None:
    counts = [np.bincount(cosine_bins(np.full(50, cosine)), minlength=NUM_BINS) for cosine in (0.7, 0.1)]
    found = PairScores(*counts).calibrate()
    assert found.probability(0.70005) == pytest.approx(51 / 52, abs=1e-3)
    assert found.probability(0.10005) == pytest.approx(1 / 52, abs=1e-3)
    assert PairScores(*counts[::-1]).calibrate().probability(0.9) == 0.5
