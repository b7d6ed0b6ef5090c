"""The index against a twin that sorts everything, and its refusals."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.index import Filter, GalleryIndex, Hits, Rows
from service.ranking import ITEMS_PER_MATCH, Match, Scored, rank_identities, rank_items

SIZE = 8
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Entry:
    """One item of the twin's gallery."""

    slot: int
    identity: int
    camera_id: str | None
    captured_at: datetime | None
    embedding: int


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


def embedding(seed: int) -> NDArray[np.float16]:
    values_D = np.random.default_rng(seed).standard_normal(SIZE)
    return (values_D / np.linalg.norm(values_D)).astype(np.float16)


def rows(entries: list[Entry]) -> Rows:
    return Rows(
        [entry.slot for entry in entries],
        [entry.identity for entry in entries],
        [entry.camera_id for entry in entries],
        [entry.captured_at for entry in entries],
        np.array([embedding(entry.embedding) for entry in entries]).reshape(len(entries), SIZE),
    )


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
    return [Scored(f"{s:06}", f"p{i}", score) for s, i, score in zip(slots, identities, scores, strict=True)]


def found(hits: Hits) -> list[Scored]:
    return scored(hits.slots.tolist(), hits.identity_keys.tolist(), hits.scores.tolist())


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
    entries: list[Entry], removed: set[int], only: Filter, query_seed: int, top_k: int
) -> None:
    entries = with_slots(entries)
    index = GalleryIndex(SIZE)
    middle = len(entries) // 2
    index.add(rows(entries[:middle]))
    index.add(rows(entries[middle:]))
    assert index.remove(sorted(removed)) == sum(entry.slot in removed for entry in entries)
    left = [entry for entry in entries if entry.slot not in removed]
    assert index.slots().tolist() == [entry.slot for entry in left]
    query_D = embedding(1000 + query_seed).astype(np.float32)
    twin = expected([entry for entry in left if passes(entry, only)], query_D)

    by_item = index.search_items(query_D, top_k, only)
    assert by_item.num_searched == len(twin)
    assert_same(rank_items(found(by_item), top_k, -1), rank_items(twin, top_k, -1))
    by_identity = index.search_identities(query_D, top_k, ITEMS_PER_MATCH, only)
    assert by_identity.num_searched == len(twin)
    assert_same(rank_identities(found(by_identity), top_k, -1), rank_identities(twin, top_k, -1))


def test_a_search_by_identity_looks_up_no_more_than_it_needs() -> None:
    entries = with_slots([Entry(1, number % 50, None, None, number) for number in range(1000)])
    index = GalleryIndex(SIZE)
    index.add(rows(entries))
    hits = index.search_identities(embedding(3).astype(np.float32), 4, 5, Filter())
    assert len(hits.slots) == 20
    assert len(set(hits.identity_keys.tolist())) == 4


@pytest.mark.parametrize(
    ("slots", "message"),
    [([1, 1], "ascend"), ([2, 1], "ascend"), ([10, 11], "ascend")],
)
def test_slots_that_do_not_ascend_are_refused(slots: list[int], message: str) -> None:
    index = GalleryIndex(SIZE)
    index.add(rows([Entry(10, 1, None, None, 0)]))
    with pytest.raises(ValueError, match=message):
        index.add(rows([Entry(slot, 1, None, None, 0) for slot in slots]))
    assert len(index) == 1


def test_embeddings_of_another_shape_or_not_finite_are_refused() -> None:
    index = GalleryIndex(SIZE)
    for bad in (np.zeros((1, SIZE + 1)), np.zeros((2, SIZE)), np.full((1, SIZE), np.nan)):
        with pytest.raises(ValueError, match=r"expected|finite"):
            index.add(Rows([1], [1], [None], [None], bad.astype(np.float16)))
    with pytest.raises(ValueError, match=r"expected \(1, 8\), got \(1, 4\)"):
        index.search_items(np.zeros(4, np.float32), 1, Filter())
    with pytest.raises(ValueError, match="as many"):
        index.add(Rows([1], [], [None], [None], np.zeros((1, SIZE), np.float16)))
    assert len(index) == 0


def test_searches_and_changes_from_many_threads_never_see_a_half_change() -> None:
    index = GalleryIndex(SIZE)
    index.add(rows([Entry(1, 1, "a", None, 1)]))
    failures: list[str] = []

    def look() -> None:
        for _ in range(200):
            hits = index.search_items(embedding(1).astype(np.float32), 1000, Filter())
            if len(hits.slots) != hits.num_searched or hits.num_searched % 5 != 1:
                failures.append(f"{len(hits.slots)} of {hits.num_searched}")

    def change() -> None:
        for start in range(2, 402, 5):
            slots = range(start, start + 5)
            index.add(rows([Entry(slot, slot, "b", None, slot % 7) for slot in slots]))
            if start % 2:
                index.remove(list(slots))

    threads = [Thread(target=look), Thread(target=look), Thread(target=change)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(index) == 1 + 200
