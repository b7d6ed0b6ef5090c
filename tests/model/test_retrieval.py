"""The retrieval protocol, against plain loops over one query's gallery."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.calibration import NUM_BINS
from model.retrieval import LabelledGallery, Split, count_pairs, match_curve, rank_matches, unit_rows

JUNK = -1
labels = st.tuples(st.integers(JUNK, 3), st.integers(0, 2))
galleries = st.lists(st.tuples(labels, st.sampled_from([-0.5, 0.0, 0.25, 0.5, np.inf])), max_size=30)


def loop_split(query: tuple[int, int], items: list[tuple[int, int]], junk: int | None) -> list[list[int]]:
    matches, excluded = [], []
    for place, (identity, camera) in enumerate(items):
        if identity == junk or (identity, camera) == query:
            excluded.append(place)
        elif identity == query[0]:
            matches.append(place)
    return [matches, excluded]


def loop_ranks(distances: list[float], split: Split, *, ties_behind: bool) -> list[int]:
    matches, excluded = (set(part.tolist()) for part in split)
    counted = [place for place in range(len(distances)) if place not in excluded]
    counted.sort(key=lambda place: (distances[place], ties_behind and place in matches, place))
    return [rank for rank, place in enumerate(counted) if place in matches]


@given(labels, st.lists(labels, max_size=30), st.sampled_from([None, JUNK]))
def test_matches_and_what_does_not_count_are_those_of_a_loop(
    query: tuple[int, int], items: list[tuple[int, int]], junk: int | None
) -> None:
    identities_G, cameras_G = np.array(items, np.int64).reshape(-1, 2).T
    split = LabelledGallery(identities_G, cameras_G, junk=junk).split(*query)
    matches, excluded = loop_split(query, items, junk)
    assert split.matches.tolist() == matches
    assert sorted(split.excluded.tolist()) == excluded


@given(
    labels,
    galleries,
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.booleans(),
)
def test_ranks_are_those_of_a_sorted_list_however_many_distances_are_equal(
    query: tuple[int, int],
    gallery: list[tuple[tuple[int, int], float]],
    dtype: type[np.floating],
    ties_behind: bool,
) -> None:
    identities_G, cameras_G = np.array([item for item, _ in gallery], np.int64).reshape(-1, 2).T
    distances = [distance for _, distance in gallery]
    split = LabelledGallery(identities_G, cameras_G, junk=JUNK).split(*query)
    ranks = rank_matches(np.array(distances, dtype), split, ties_behind=ties_behind)
    assert ranks.tolist() == loop_ranks(distances, split, ties_behind=ties_behind)


def test_ranking_leaves_the_distances_as_they_are() -> None:
    distances = np.array([0.3, 0.1, 0.2])
    rank_matches(distances, Split(np.array([0]), np.array([1])))
    assert distances.tolist() == [0.3, 0.1, 0.2]


def test_pairs_are_counted_once_and_what_does_not_count_is_in_none() -> None:
    gallery = LabelledGallery(np.array([1, 1, 2, JUNK]), np.array([0, 1, 0, 0]), junk=JUNK)
    pairs = count_pairs(np.array([[0.9, 0.5, 0.1, 0.2]]), [gallery.split(1, 0)])
    assert [np.flatnonzero(counts).tolist() for counts in (pairs.same, pairs.different)] == [[15000], [11000]]
    assert len(pairs.same) == len(pairs.different) == NUM_BINS


def test_a_curve_longer_than_the_last_rank_ends_at_one() -> None:
    assert match_curve(np.array([1, 1, 3, 0]), 5).tolist() == [0.25, 0.75, 0.75, 1.0, 1.0]


def test_rows_are_copied_in_the_type_that_is_asked_for() -> None:
    rows = np.full((2, 4), 300, np.float16)
    assert unit_rows(rows, np.float32).tolist() == [[0.5] * 4] * 2
    assert rows.tolist() == [[300] * 4] * 2


@pytest.mark.parametrize("spoilt", [0.0, np.nan, np.inf])
def test_a_row_without_a_cosine_is_refused(spoilt: float) -> None:
    with pytest.raises(ValueError, match="it has no cosine"):
        unit_rows(np.array([[1.0, 0.0], [spoilt, 0.0]]))
