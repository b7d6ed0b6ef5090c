"""Changes to an index: what it refuses, what it ignores, and what concurrent searches see."""

from threading import Thread

import numpy as np
import pytest

from indexed_items import EPOCH, SIZE, Entry, embedding, identities_of, rows
from service.index import Filter, GalleryIndex, Rows


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
            index.add(Rows([1], [1], [None], [None], [None], bad.astype(np.float16)))
    with pytest.raises(ValueError, match=r"expected \(1, 8\), got \(1, 4\)"):
        index.search(np.zeros(4, np.float32), 1, Filter())
    with pytest.raises(ValueError, match="as many"):
        index.add(Rows([1], [], [None], [None], [None], np.zeros((1, SIZE), np.float16)))
    assert len(index) == 0


def test_searches_and_changes_from_many_threads_never_see_a_half_change() -> None:
    index = GalleryIndex(SIZE)
    index.add(rows([Entry(1, 1, "a", None, 1)]))
    failures: list[str] = []

    def look() -> None:
        for _ in range(200):
            hits = index.search(embedding(1).astype(np.float32), 1000, Filter())
            if len(hits.slots) != hits.num_searched or hits.num_searched % 5 != 1:
                failures.append(f"{len(hits.slots)} of {hits.num_searched}")

    def change() -> None:
        for start in range(2, 402, 5):
            slots = range(start, start + 5)
            index.add(rows([Entry(slot, slot, "b", None, slot % 7) for slot in slots]))
            if start % 2:
                index.delete(list(slots))

    threads = [Thread(target=look), Thread(target=look), Thread(target=change)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(index) == 1 + 200


def test_updates_of_items_that_are_not_there_are_ignored() -> None:
    index = GalleryIndex(SIZE)
    index.add(rows([Entry(1, 1, "a", None, 0), Entry(2, 2, "b", None, 1)]))
    index.delete([2])
    index.update([2, 3], [7, 7], ["c", "c"], [None, None], [None, None])
    index.update([3, 1], [7, 8], ["c", "d"], [None, EPOCH], [None, "x"])
    hits = index.search(embedding(0).astype(np.float32), 5, Filter())
    assert identities_of(index, hits) == [8]
    only = Filter(camera_ids=frozenset("d"), track_ids=frozenset("x"), captured_after=EPOCH)
    assert index.search(embedding(0).astype(np.float32), 5, only).num_searched == 1
    with pytest.raises(ValueError, match="as many"):
        index.update([1], [1], [], [None], [None])
    for unknown in ([2], [1, 3], [0]):
        with pytest.raises(ValueError, match="not in the index"):
            index.embeddings(unknown)
    assert index.embeddings([]).shape == (0, SIZE)


def test_the_identities_are_counted_again_after_each_change() -> None:
    index = GalleryIndex(SIZE)
    query_D = embedding(0).astype(np.float32)

    def count(*excluded: int) -> int:
        only = Filter(excluded_identity_keys=frozenset(excluded))
        return index.search(query_D, 1, only).num_identities

    assert count() == 0
    index.add(rows([Entry(slot, slot % 3, "a", None, slot) for slot in range(1, 7)]))
    assert [count(), count()] == [3, 3]
    index.update([1, 4], [7, 8], ["a", "a"], [None, None], [None, None])
    assert count() == 4
    index.delete([1])
    assert count() == 3
    index.erase([4])
    assert count() == 2
    assert count(2) == 1
    index.close()
