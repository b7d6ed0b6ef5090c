"""Exact search of items and groups, against a twin that sorts everything."""

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from indexed_items import EPOCH, SIZE, Entry, embedding, identities_of, rows
from service.index import Filter, GalleryIndex, Hits, Rows
from service.index.vectors import Embeddings
from service.search.ranking import Match, Scored, rank_groups, rank_items

TIMES = st.none() | st.integers(0, 5).map(lambda hours: EPOCH + timedelta(hours=hours))
ENTRIES = st.lists(
    st.builds(
        Entry,
        slot=st.integers(1, 3),
        identity=st.integers(1, 6),
        camera_id=st.sampled_from([None, "a", "b", "c"]),
        captured_at=TIMES,
        embedding=st.integers(0, 5),  # few different ones: ties are common
    ),
    max_size=60,
)
CAMERAS = st.frozensets(st.sampled_from(["a", "b", "c", "d"]), max_size=2)
FILTERS = st.builds(Filter, CAMERAS, CAMERAS, TIMES, TIMES)


def passes(entry: Entry, only: Filter) -> bool:
    if only.camera_ids and entry.camera_id not in only.camera_ids:
        return False
    if entry.camera_id in only.excluded_camera_ids:
        return False
    if only.captured_after and not (entry.captured_at and entry.captured_at >= only.captured_after):
        return False
    return not (only.captured_before and not (entry.captured_at and entry.captured_at < only.captured_before))


def with_slots(entries: list[Entry]) -> list[Entry]:
    """Turn the drawn gaps between slots into ascending slots."""
    slots = np.cumsum([entry.slot for entry in entries]).tolist()
    return [
        Entry(slot, e.identity, e.camera_id, e.captured_at, e.embedding)
        for slot, e in zip(slots, entries, strict=True)
    ]


def scored(slots: list[int], identities: list[int], scores: list[float]) -> list[Scored]:
    return [
        Scored(f"{s:06}", f"p{i}", score, i) for s, i, score in zip(slots, identities, scores, strict=True)
    ]


def found(index: GalleryIndex, hits: Hits) -> list[Scored]:
    return scored(hits.slots.tolist(), identities_of(index, hits), hits.scores.tolist())


def expected(entries: list[Entry], query_D: NDArray[np.float32]) -> list[Scored]:
    scores = [float(np.float32(query_D @ embedding(entry.embedding).astype(np.float32))) for entry in entries]
    return scored([entry.slot for entry in entries], [entry.identity for entry in entries], scores)


def assert_same(ours: list[Match], theirs: list[Match]) -> None:
    assert [m.identity_id for m in ours] == [m.identity_id for m in theirs]
    assert [[i.item_id for i in m.items] for m in ours] == [[i.item_id for i in m.items] for m in theirs]
    assert [m.score for m in ours] == pytest.approx([m.score for m in theirs], abs=1e-5)


@settings(max_examples=200, deadline=None)
@given(ENTRIES, st.sets(st.integers(1, 60)), FILTERS, st.integers(0, 20), st.integers(1, 12))
def test_answers_equal_those_of_sorting_everything(
    entries: list[Entry], deleted: set[int], only: Filter, query_seed: int, top_k: int
) -> None:
    entries = with_slots(entries)
    index = GalleryIndex(SIZE)
    middle = len(entries) // 2
    index.add(rows(entries[:middle]))
    index.add(rows(entries[middle:]))
    assert index.delete(sorted(deleted)) == sum(entry.slot in deleted for entry in entries)
    left = [entry for entry in entries if entry.slot not in deleted]
    assert index.slots().tolist() == [entry.slot for entry in left]
    query_D = embedding(1000 + query_seed).astype(np.float32)
    twin = expected([entry for entry in left if passes(entry, only)], query_D)

    by_item = index.search(query_D, top_k, only)
    assert by_item.num_searched == len(twin)
    assert_same(rank_items(found(index, by_item), top_k, -1), rank_items(twin, top_k, -1))
    by_identity = index.search_groups(query_D, top_k, 5, only)
    assert by_identity.num_searched == len(twin)
    assert_same(rank_groups(found(index, by_identity), top_k, 5, -1), rank_groups(twin, top_k, 5, -1))


def test_a_search_by_identity_looks_up_no_more_than_it_needs() -> None:
    entries = with_slots([Entry(1, number % 50, None, None, number) for number in range(1000)])
    index = GalleryIndex(SIZE)
    index.add(rows(entries))
    hits = index.search_groups(embedding(3).astype(np.float32), 4, 5, Filter())
    assert len(hits.slots) == 20
    assert len(set(identities_of(index, hits))) == 4


def test_scores_do_not_depend_on_how_rows_are_searched() -> None:
    rng = np.random.default_rng(5)
    rows_ND = rng.standard_normal((10_000, 77)).astype(np.float16)
    rows_ND[5_000:] = rows_ND[:5_000]  # every score twice
    embeddings = Embeddings.empty(77).appended(rows_ND[:100]).appended(rows_ND[100:])
    query_1D = rng.standard_normal((1, 77)).astype(np.float32)
    everything = np.ones(10_000, np.bool_)
    rows, scores = embeddings.topk(query_1D, 10_000, everything)
    truth_N = rows_ND.astype(np.float32) @ query_1D[0]
    assert scores == pytest.approx(truth_N[rows], abs=1e-3)
    score_of = dict(zip(rows.tolist(), scores.tolist(), strict=True))
    assert all(score_of[row] == score_of[row + 5_000] for row in range(5_000))
    most = rng.random(10_000) < 0.8
    for mask, k in ((everything, 50), (most, 50), (~most, 50), (most, 5_000)):
        some, their_scores = embeddings.topk(query_1D, k, mask)
        assert len(some) == min(k, mask.sum())
        assert mask[some].all()
        assert (np.diff(their_scores) <= 0).all()
        assert their_scores.min() >= np.sort(truth_N[mask])[-len(some)] - 1e-3
        assert [score_of[row] for row in some.tolist()] == their_scores.tolist()


def test_items_of_one_group_never_hide_the_others() -> None:
    crowd = np.repeat(embedding(1)[None], 20_000, axis=0)
    others = np.array([embedding(seed) for seed in range(2, 12)])
    index = GalleryIndex(SIZE)
    slots = range(1, 20_011)
    identities = [0] * 20_000 + list(range(1, 11))
    tracks = [None] * 20_005 + ["x"] * 5
    nothing = [None] * 20_010
    index.add(Rows(slots, identities, nothing, nothing, tracks, np.concatenate([crowd, others])))
    query_D = embedding(1).astype(np.float32)
    hits = index.search_groups(query_D, 11, 1, Filter())
    assert set(identities_of(index, hits)) == set(range(11))
    assert len(index.search_groups(query_D, 3, 1, Filter(), "camera").slots) == 20_000  # all of them tie
    for k, num_groups in ((20_000, 20_000), (20_001, 20_001), (30_000, 20_006)):
        by_track = index.search_groups(query_D, k, 2, Filter(), "track")
        assert len(set(by_track.group_keys.tolist())) == num_groups
