"""Rates of strangers, against plain loops, against a known distribution, and at their edges."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.calibration import NUM_BINS, cosine_bins
from model.strangers import MIN_IDENTITIES, MIN_PAIRS, RATES, BestOfStrangers, StrangerRates
from model.verification import Strangers
from training.metrics.verification import count_strangers

Ints = NDArray[np.int64]


def draw(seed: int, num_identities: int = 60, num_items: int = 400) -> tuple[NDArray[np.float32], Ints, Ints]:
    """Return unit embeddings around people, the identity of each, and the queries among them."""
    rng = np.random.default_rng(seed)
    identities = rng.integers(1, num_identities + 1, num_items)
    rows = rng.normal(size=(num_identities + 1, 16))[identities] + rng.normal(size=(num_items, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), identities, rng.permutation(num_items)[: num_items // 2]


def loop_best(cosines: NDArray[np.floating], queries: Ints, gallery: Ints, left_out: set[int]) -> list[float]:
    """Return for each query the best cosine of each identity that is not the query's own."""
    best: list[float] = []
    for row, identity in zip(cosines, queries, strict=True):
        others = set(gallery.tolist()) - {int(identity)} - left_out
        best += [float(row[gallery == other].max()) for other in others]
    return best


@pytest.mark.parametrize("seed", range(5))
def test_the_best_of_each_other_identity_counts_once(seed: int) -> None:
    rows, identities, queries = draw(seed, 12, 60)
    identities[:5] = -1
    cosines = rows[queries] @ rows.T
    counts = BestOfStrangers(identities, left_out=(-1,)).count(cosines, identities[queries])
    wanted = cosine_bins(np.array(loop_best(cosines, identities[queries], identities, {-1}), np.float32))
    np.testing.assert_array_equal(counts, np.bincount(wanted, minlength=NUM_BINS))


@pytest.mark.parametrize("seed", range(3))
def test_a_kept_rate_is_the_share_of_strangers_at_its_cosine(seed: int) -> None:
    rows, identities, queries = draw(seed)
    rates = count_strangers(rows[queries], rows, identities[queries], identities)
    assert rates is not None
    best = np.array(loop_best(rows[queries] @ rows.T, identities[queries], identities, set()), np.float32)
    assert rates.num_pairs == len(best)
    assert rates.rates == tuple(rate for rate in RATES if rate * len(best) >= MIN_PAIRS)
    bins = cosine_bins(best)
    for rate, cosine in zip(rates.rates, rates.cosines, strict=True):
        place = round((cosine + 1) * 10_000)
        assert np.mean(bins >= place) <= rate < np.mean(bins >= place - 1)
        assert rates.rate(cosine + 5e-5) == pytest.approx(rate, rel=0.01)


def test_junk_distractors_and_the_own_identity_are_no_strangers() -> None:
    rows, identities, queries = draw(7)
    first = count_strangers(rows[queries], rows, identities[queries], identities)
    for pid in (-1, 0):
        more = np.concatenate([rows, rows[queries]]), np.concatenate([identities, np.full(len(queries), pid)])
        assert count_strangers(rows[queries], more[0], identities[queries], more[1]) == first


def test_too_few_people_or_pairs_have_no_rates() -> None:
    counts = np.zeros(NUM_BINS, np.int64)
    counts[np.random.default_rng(0).integers(9_000, 14_000, 100 * MIN_PAIRS)] += 1
    assert counts.sum() < 100 * MIN_PAIRS
    enough = counts * 10
    assert StrangerRates.count(enough, MIN_IDENTITIES) is not None
    assert StrangerRates.count(enough, MIN_IDENTITIES - 1) is None
    assert StrangerRates.count(counts, MIN_IDENTITIES) is None
    assert StrangerRates.count(np.zeros(NUM_BINS, np.int64), 0) is None


@given(
    st.lists(st.tuples(st.integers(0, NUM_BINS - 1), st.integers(1, 10**6)), min_size=1, max_size=40),
    st.lists(st.floats(-1, 1), min_size=2, max_size=40),
)
@settings(max_examples=100, deadline=None)
def test_the_rate_never_rises_with_the_cosine(bins: list[tuple[int, int]], cosines: list[float]) -> None:
    counts = np.zeros(NUM_BINS, np.int64)
    for place, num in bins:
        counts[place] += num
    rates = StrangerRates.count(counts, 100)
    if rates is None:
        return
    found = [rates.rate(cosine) for cosine in sorted(cosines)]
    assert all(one >= other for one, other in pairwise(found))
    assert all(0 < one <= 1 for one in found)


def test_an_exponential_tail_goes_on_beyond_what_was_counted() -> None:
    rng = np.random.default_rng(3)
    drawn = 0.1 + rng.exponential(0.05, 200_000).clip(max=0.89)
    counts = np.bincount(cosine_bins(drawn), minlength=NUM_BINS)
    rates = StrangerRates.count(counts, 200)
    assert rates is not None
    assert rates.rates[-1] == 5.6e-4
    for true in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        assert rates.rate(0.1 - 0.05 * np.log(true)) == pytest.approx(true, rel=0.5)


def test_a_network_that_embeds_all_people_alike_expects_everybody_everywhere() -> None:
    counts = np.zeros(NUM_BINS, np.int64)
    counts[-1] = 1_000_000
    rates = StrangerRates.count(counts, 100)
    assert rates is not None
    assert rates.rate(1.0) == rates.rate(-1.0) == 0.99


def test_rates_come_back_from_a_card_as_they_were() -> None:
    rows, identities, queries = draw(11)
    rates = count_strangers(rows[queries], rows, identities[queries], identities)
    assert rates is not None
    kept = rates.to_dict() | {"data": "made up"}
    Strangers.model_validate(kept)
    assert StrangerRates.from_dict(kept) == rates
    assert StrangerRates.from_dict(kept | {"rates": kept["rates"][::-1]}) == rates
