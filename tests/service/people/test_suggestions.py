"""Pairs of identities that are likely one person: exact, and never two who cannot be."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live_server import crop, enroll
from service.index import Columns
from service.people.comparison import BLOCK, MAX_FRAME, People, impossible_pairs, topk_pairs

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

Sighting = tuple[int, str | None, int | None]
"""An identity's key, a camera, and a second."""


def columns_of(seen: list[Sighting]) -> Columns:
    return Columns.empty().appended(
        np.arange(1, len(seen) + 1),
        [key for key, _, _ in seen],
        [camera_id for _, camera_id, _ in seen],
        [None if second is None else EPOCH + timedelta(seconds=second) for _, _, second in seen],
        [None] * len(seen),
    )


def loop(
    seen: list[Sighting],
    rows_ND: np.ndarray[Any, np.dtype[np.float16]],
    no_pairs: list[tuple[int, int]],
    min_score: float,
    key: int | None,
) -> dict[frozenset[int], float]:
    """Look at one pair after the other, and for each at all of their items."""
    pairs = {}
    for a, b in itertools.combinations(sorted({sighting[0] for sighting in seen}), 2):
        means = [rows_ND[[one[0] == k for one in seen]].astype(np.float64).mean(0) for k in (a, b)]
        score = float(means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1]))
        frames = [{one[1:] for one in seen if one[0] == k and None not in one} for k in (a, b)]
        is_apart = frames[0] & frames[1] or (a, b) in no_pairs or (b, a) in no_pairs
        if score >= min_score and not is_apart and key in (None, a, b):
            pairs[frozenset((a, b))] = score
    return pairs


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(100, 108),
            st.sampled_from(["door", "hall", None]),
            st.one_of(st.none(), st.integers(0, 6)),
        ),
        max_size=40,
    ),
    st.lists(st.tuples(st.integers(99, 108), st.integers(99, 108)), max_size=4),
    st.integers(1, 40),
    st.sampled_from([-0.9, 0.0, 0.3]),
    st.integers(0, 1000),
    st.booleans(),
)
def test_the_best_pairs_are_those_of_a_loop_over_all_pairs_and_their_items(
    seen: list[Sighting],
    no_pairs: list[tuple[int, int]],
    k: int,
    min_score: float,
    seed: int,
    is_of_one: bool,
) -> None:
    rows_ND = np.random.default_rng(seed).standard_normal((len(seen), 4)).astype(np.float16)
    key = seen[0][0] if seen and is_of_one else None
    columns = columns_of(seen)
    people = People.of(columns, np.arange(len(seen)), rows_ND)
    found = topk_pairs(people, k, min_score, impossible_pairs(columns, people, no_pairs), key)
    expected = loop(seen, rows_ND, no_pairs, min_score, key)
    best = sorted(expected.values(), reverse=True)[:k]
    assert [score for score, _, _ in found] == pytest.approx(best, abs=1e-5)
    for score, a, b in found:
        assert expected[frozenset(people.keys[[a, b]].tolist())] == pytest.approx(score, abs=1e-5)


def test_pairs_across_blocks_are_found_once() -> None:
    num = 2 * BLOCK + 10
    rows_ND = np.random.default_rng(0).standard_normal((num, 16)).astype(np.float16)
    alike = [(3, BLOCK + 7), (5, num - 1), (BLOCK + 1, num - 2), (0, 1)]
    for a, b in alike:
        rows_ND[b] = rows_ND[a]
    columns = columns_of([(key, None, None) for key in range(num)])
    people = People.of(columns, np.arange(num), rows_ND)
    no_pairs = impossible_pairs(columns, people, [(1, 0)])
    found = topk_pairs(people, 4, 0.999, no_pairs)
    assert sorted(pair[1:] for pair in found) == sorted(alike[:3])
    for a, b in alike[:3]:
        assert [pair[1:] for pair in topk_pairs(people, 4, 0.999, no_pairs, b)] == [(b, a)]


def test_of_many_pairs_that_are_all_alike_the_first_are_found() -> None:
    num = BLOCK + 100
    columns = columns_of([(key, None, None) for key in range(num)])
    people = People.of(columns, np.arange(num), np.ones((num, 4), np.float16))
    found = topk_pairs(people, 50, -1.0, impossible_pairs(columns, people, [(0, 1), (0, 3)]))
    assert [pair[1:] for pair in found] == [(0, other) for other in (2, *range(4, 53))]


def test_no_two_of_a_large_crowd_are_a_pair() -> None:
    num = MAX_FRAME + 20
    crowd = [(key, "square", 5) for key in range(num)]
    others = [(num, "square", 6), (num + 1, "square", 7), (0, "square", 7)]
    columns = columns_of([*crowd, *others])
    people = People.of(columns, np.arange(num + 3), np.ones((num + 3, 4), np.float16))
    found = topk_pairs(people, 10_000, 0.5, impossible_pairs(columns, people, []))
    expected = [(a, num) for a in range(num)] + [(a, num + 1) for a in range(1, num + 1)]
    assert sorted(pair[1:] for pair in found) == sorted(expected)


@pytest.fixture
def pairs(client: httpx.Client) -> httpx.Client:
    """A gallery where a1 and a2 are alike, b1 and b2, and c1 and c2, who were seen side by side."""
    for seed, name in enumerate("abc", 1):
        for number in (1, 2):
            frame = {
                "camera_id": "door",
                "captured_at": f"2026-01-01T00:00:0{seed if name == 'c' else number}Z",
            }
            track = {"identity_id": f"{name}{number}", "track_id": f"{name}{number}"}
            enroll(client, crop(seed, number), crop(seed, number + 10), **frame, **track)
    return client


def suggested(client: httpx.Client, **fields: Any) -> list[tuple[str, ...]]:
    answer = client.get("/identities/suggestions", params=fields)
    assert answer.status_code == 200, answer.text
    found = answer.json()["suggestions"]
    scores = [pair["score"] for pair in found]
    assert scores == sorted(scores, reverse=True)
    for pair in found:
        for side in pair["identities"]:
            item = client.get(side["image_url"].removesuffix("/image")).json()
            assert (item["id"], item["identity_id"]) == (side["item_id"], side["identity_id"])
    return [tuple(sorted(side["identity_id"] for side in pair["identities"])) for pair in found]


def test_likely_pairs_are_suggested_but_never_two_of_one_frame(pairs: httpx.Client) -> None:
    assert sorted(suggested(pairs, min_score=0.99)) == [("a1", "a2"), ("b1", "b2")]
    assert ("c1", "c2") not in suggested(pairs, min_score=-1, limit=1000)
    assert len(suggested(pairs, min_score=-1, limit=1000)) == 15 - 3  # a1 and b1 share a frame, a2 and b2 too
    assert len(suggested(pairs, min_score=-1, limit=2)) == 2
    assert suggested(pairs, min_score=0.99, of="b2") == [("b1", "b2")]
    assert suggested(pairs, min_score=0.99, of="c1") == []
    assert suggested(pairs, min_score=0.99, identity_id=["a1", "b1", "b2"]) == [("b1", "b2")]
    assert suggested(pairs, camera_id="nowhere") == []


def test_a_merged_or_rejected_pair_is_suggested_no_more(pairs: httpx.Client) -> None:
    (first, *_) = pairs.get("/identities/a1/items").json()["items"]
    rejected = pairs.post("/identities/a2/reject", json={"item_ids": [first["id"]]}).json()
    assert suggested(pairs, min_score=0.99) == [("b1", "b2")]
    pairs.post("/identities/b1/merge", json={"source_ids": ["b2"]})
    assert suggested(pairs, min_score=0.99) == []
    pairs.post(f"/operations/{rejected['operation_id']}/undo")
    assert suggested(pairs, min_score=0.99) == [("a1", "a2")]
