"""Pairs of identities that are likely one person: exact, and never two who cannot be."""

from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from live_server import crop, enroll
from service.suggestions import BLOCK, Means, best_pairs


def unit(rows_MD: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows_MD / np.linalg.norm(rows_MD, axis=1, keepdims=True), np.float32)


def loop(
    means: Means, k: int, min_score: float, apart: list[set[int]], key: int | None
) -> list[tuple[float, int, int]]:
    """Look at one pair after the other."""
    pairs = []
    for a in range(len(means.keys)):
        for b in range(a + 1, len(means.keys)):
            score = float(means.means_MD[a] @ means.means_MD[b])
            is_apart = any({a, b} <= group for group in apart)
            if score >= min_score and not is_apart and key in (None, means.keys[a], means.keys[b]):
                pairs.append((score, a, b))
    return sorted(pairs, key=lambda pair: -pair[0])[:k]


@settings(deadline=None)
@given(
    st.integers(0, 12),
    st.integers(1, 30),
    st.sampled_from([-1.0, 0.0, 0.6]),
    st.lists(st.sets(st.integers(0, 11), max_size=5), max_size=5),
    st.integers(0, 1000),
    st.booleans(),
)
def test_the_best_pairs_are_those_of_a_loop_over_all(
    num: int, k: int, min_score: float, apart: list[set[int]], seed: int, is_of_one: bool
) -> None:
    rng = np.random.default_rng(seed)
    means = Means(np.arange(100, 100 + num), unit(rng.standard_normal((num, 4)).astype(np.float32)), [])
    apart = [{place for place in group if place < num} for group in apart]
    key = 100 + seed % num if is_of_one and num else None
    groups = [np.array(sorted(group), np.int64) for group in apart]
    found = best_pairs(means, k, min_score, groups, key)
    expected = loop(means, k, min_score, apart, key)
    assert [score for score, _, _ in found] == pytest.approx([s for s, _, _ in expected], abs=1e-6)
    assert {frozenset(pair[1:]) for pair in found} == {frozenset(pair[1:]) for pair in expected}


def test_pairs_across_blocks_are_found_once() -> None:
    num = 2 * BLOCK + 10
    rng = np.random.default_rng(0)
    means_MD = unit(rng.standard_normal((num, 16)).astype(np.float32))
    for a, b in ((3, BLOCK + 7), (5, num - 1), (BLOCK + 1, num - 2), (0, 1)):
        means_MD[b] = means_MD[a]
    means = Means(np.arange(num), means_MD, [])
    found = best_pairs(means, 4, 0.999, [np.array([0, 1])])
    assert sorted(pair[1:] for pair in found) == [(3, BLOCK + 7), (5, num - 1), (BLOCK + 1, num - 2)]


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
