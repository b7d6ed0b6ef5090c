"""Erasure from an index: no data of an erased item is left in memory or in a file written later."""

from pathlib import Path

import numpy as np
import pytest

from indexed_items import (
    CLUSTERED_SIZE,
    EPOCH,
    KINDS,
    MIN_RECALL,
    clustered,
    clustered_rows,
    identities_of,
    recall,
)
from service.index import Filter, GalleryIndex, IndexKind


@pytest.mark.parametrize("kind", KINDS)
def test_erased_items_are_nowhere_in_the_index(kind: IndexKind, tmp_path: Path) -> None:
    embeddings_ND = clustered(12_000)
    index, twin = GalleryIndex(CLUSTERED_SIZE, kind), GalleryIndex(CLUSTERED_SIZE, kind)
    index.add(clustered_rows(embeddings_ND, 0, 12_000))
    index.wait()
    gone = {number for number in range(12_000) if number // 10 % 10 == 3}
    deleted = [number + 1 for number in gone if number % 2]
    assert index.delete(deleted) == len(deleted)
    index.write(tmp_path / "index")
    written = (tmp_path / "index").read_bytes()
    number = deleted[0] - 1
    assert embeddings_ND[number].tobytes() not in written  # deleted rows are written as zeros
    assert embeddings_ND[number - 1].tobytes() in written
    index.update([1], [0], ["camera 0"], [EPOCH], ["secret"])
    index.update([1], [0], ["camera 0"], [EPOCH], ["track 0"])
    index.erase([number + 1 for number in gone if not number % 2] + [99_999])
    left = [number for number in range(12_000) if number not in gone]
    assert index.slots().tolist() == [number + 1 for number in left]
    index.wait()
    index.write(tmp_path / "index")
    written = (tmp_path / "index").read_bytes()
    assert not any(embeddings_ND[number].tobytes() in written for number in sorted(gone)[::40])
    assert all(embeddings_ND[number].tobytes() in written for number in left[::400])
    assert b"secret" not in written
    for start in range(0, 12_000, 1_000):
        few = clustered_rows(embeddings_ND, start, start + 1_000)
        twin.add(few)
    twin.delete([number + 1 for number in gone])
    query_D = embeddings_ND[35].astype(np.float32)  # of an erased identity
    ours = index.search_groups(query_D, 5, 2, Filter())
    theirs = twin.search_groups(query_D, 5, 2, Filter())
    assert ours.num_searched == theirs.num_searched == len(left)
    assert 3 not in identities_of(index, ours)
    assert recall(index, embeddings_ND, Filter(), left) >= MIN_RECALL[kind]
    index.add(clustered_rows(clustered(12_100), 12_000, 12_100))
    assert len(index) == len(left) + 100


@pytest.mark.parametrize("kind", KINDS)
def test_a_build_that_was_running_does_not_bring_erased_items_back(kind: IndexKind) -> None:
    embeddings_ND = clustered(24_000)
    index = GalleryIndex(CLUSTERED_SIZE, kind)
    index.add(clustered_rows(embeddings_ND, 0, 14_000))
    alive = set(range(14_000))
    for start in range(14_000, 24_000, 500):  # some while an ANN index is built, or rows are compacted
        index.add(clustered_rows(embeddings_ND, start, start + 500))
        alive |= set(range(start, start + 500))
        deleted = range(start - 14_000, start - 13_800)
        erased = range(start - 13_800, start - 13_750)
        index.delete([number + 1 for number in deleted])
        index.erase([number + 1 for number in erased])
        alive -= {*deleted, *erased}
    index.wait()
    assert index.slots().tolist() == [number + 1 for number in sorted(alive)]
    sample = sorted(alive)[::97]
    assert (index.embeddings([number + 1 for number in sample]) == embeddings_ND[sample]).all()
    assert recall(index, embeddings_ND, Filter(), sorted(alive)) >= MIN_RECALL[kind]
    index.close()
