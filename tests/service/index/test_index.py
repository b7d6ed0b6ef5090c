"""The index against a twin that sorts everything, and its refusals."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.index.index import Filter, GalleryIndex, Hits, IndexKind, Rows
from service.index.vectors import Embeddings
from service.search.ranking import Match, Scored, rank_groups, rank_items

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
        [None] * len(entries),
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
    return [
        Scored(f"{s:06}", f"p{i}", score, i) for s, i, score in zip(slots, identities, scores, strict=True)
    ]


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
    by_identity = index.search_groups(query_D, top_k, 5, only)
    assert by_identity.num_searched == len(twin)
    assert_same(rank_groups(found(by_identity), top_k, 5, -1), rank_groups(twin, top_k, 5, -1))


def test_a_search_by_identity_looks_up_no_more_than_it_needs() -> None:
    entries = with_slots([Entry(1, number % 50, None, None, number) for number in range(1000)])
    index = GalleryIndex(SIZE)
    index.add(rows(entries))
    hits = index.search_groups(embedding(3).astype(np.float32), 4, 5, Filter())
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
            index.add(Rows([1], [1], [None], [None], [None], bad.astype(np.float16)))
    with pytest.raises(ValueError, match=r"expected \(1, 8\), got \(1, 4\)"):
        index.search_items(np.zeros(4, np.float32), 1, Filter())
    with pytest.raises(ValueError, match="as many"):
        index.add(Rows([1], [], [None], [None], [None], np.zeros((1, SIZE), np.float16)))
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


KINDS: list[IndexKind] = ["auto", "exact", "hnsw", "ivf"]


def clustered(num: int, seed: int = 0, noise: float = 0.4) -> NDArray[np.float16]:
    """Draw items in clusters of 10 around identities; item i is of identity i // 10."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(np.random.default_rng(99).standard_normal((num // 10, 32)), 10, axis=0)
    drawn_ND = centres + noise * rng.standard_normal((num, 32))
    drawn_ND /= np.linalg.norm(drawn_ND, axis=1, keepdims=True)
    return np.asarray(drawn_ND, np.float16)


def clustered_rows(embeddings_ND: NDArray[np.float16], start: int, end: int) -> Rows:
    numbers = range(start, end)
    return Rows(
        [number + 1 for number in numbers],
        [number // 10 for number in numbers],
        [f"camera {number % 7}" for number in numbers],
        [EPOCH + timedelta(seconds=number) for number in numbers],
        [f"track {number // 5}" for number in numbers],
        embeddings_ND[start:end],
    )


def recall(index: GalleryIndex, embeddings_ND: NDArray[np.float16], only: Filter, alive: list[int]) -> float:
    """Return the share of the 10 best live rows that searches for other crops of live identities find."""
    gallery_ND = embeddings_ND[alive].astype(np.float32)
    queries_QD = clustered(len(embeddings_ND), seed=1)[alive[::400]].astype(np.float32)
    found = 0
    for query_D in queries_QD:
        best = np.argsort(-(gallery_ND @ query_D))[:10]
        hits = index.search_items(query_D, 10, only)
        found += len(set(hits.slots[:10].tolist()) & {alive[row] + 1 for row in best})
    return found / (10 * len(queries_QD))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_finds_nearly_all_before_and_after_deletions_and_additions(
    kind: IndexKind, tmp_path: Path
) -> None:
    least = 0.97 if kind in ("hnsw", "ivf") else 1  # so few are searched exactly by auto
    embeddings_ND = clustered(16_000)
    index = GalleryIndex(32, kind)
    index.add(clustered_rows(embeddings_ND, 0, 12_000))
    index.settle()
    everything = list(range(12_000))
    assert recall(index, embeddings_ND[:12_000], Filter(), everything) >= least
    index.add(clustered_rows(embeddings_ND, 12_000, 12_400))  # known to no structure yet
    everything = list(range(12_400))
    assert recall(index, embeddings_ND, Filter(), everything) >= least

    gone = {number for number in everything if number // 10 % 4 == 0}
    assert index.remove([number + 1 for number in gone]) == len(gone)
    left = [number for number in everything if number not in gone]
    assert len(index) == len(left)
    assert recall(index, embeddings_ND, Filter(), left) >= least
    index.settle()
    index.add(clustered_rows(embeddings_ND, 12_400, 16_000))  # more than a structure may not know
    left += range(12_400, 16_000)
    index.settle()
    assert index.slots().tolist() == [number + 1 for number in left]
    assert recall(index, embeddings_ND, Filter(), left) >= least
    assert (index.embeddings([left[7] + 1]) == embeddings_ND[left[7]]).all()

    for wanted in ([0, 1], [0, 1, 2, 3, 4, 5]):
        only = Filter(camera_ids=frozenset(f"camera {number}" for number in wanted))
        passing = [number for number in left if number % 7 in wanted]
        assert (
            recall(index, embeddings_ND, only, passing) >= least - 0.07
        )  # fewer than 10 are of the identity
        hits = index.search_items(embeddings_ND[0].astype(np.float32), 50, only)
        assert hits.num_searched == len(passing)
        assert {(slot - 1) % 7 for slot in hits.slots.tolist()} <= set(wanted)
    groups = index.search_groups(embeddings_ND[33].astype(np.float32), 12, 3, Filter())
    assert groups.identity_keys[0] == 3
    assert len(set(groups.identity_keys.tolist())) == 12

    index.write(tmp_path / "index")
    again = GalleryIndex.read(tmp_path / "index", kind)
    assert again.slots().tolist() == index.slots().tolist()
    queries_QD = clustered(16_000, seed=2)[::400].astype(np.float32)
    assert all(
        again.search_items(query_D, 10, only).slots.tolist()
        == index.search_items(query_D, 10, only).slots.tolist()
        for query_D in queries_QD
    )
    again.add(clustered_rows(clustered(20_000), 16_000, 20_000))
    again.close()
    index.close()


def test_scores_do_not_depend_on_how_rows_are_searched() -> None:
    rng = np.random.default_rng(5)
    rows_ND = rng.standard_normal((10_000, 77)).astype(np.float16)
    rows_ND[5_000:] = rows_ND[:5_000]  # every score twice
    embeddings = Embeddings(77).appended(rows_ND[:100]).appended(rows_ND[100:])
    query_1D = rng.standard_normal((1, 77)).astype(np.float32)
    everything = np.ones(10_000, np.bool_)
    rows, scores = embeddings.best(query_1D, 10_000, everything)
    truth_N = rows_ND.astype(np.float32) @ query_1D[0]
    assert scores == pytest.approx(truth_N[rows], abs=1e-3)
    score_of = dict(zip(rows.tolist(), scores.tolist(), strict=True))
    assert all(score_of[row] == score_of[row + 5_000] for row in range(5_000))
    most = rng.random(10_000) < 0.8
    for mask, k in ((everything, 50), (most, 50), (~most, 50), (most, 5_000)):
        some, their_scores = embeddings.best(query_1D, k, mask)
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
    assert set(hits.identity_keys.tolist()) == set(range(11))
    assert len(index.search_groups(query_D, 3, 1, Filter(), "camera").slots) == 20_000  # all of them tie
    for k, num_groups in ((20_000, 20_000), (20_001, 20_001), (30_000, 20_006)):
        by_track = index.search_groups(query_D, k, 2, Filter(), "track")
        assert len(set(by_track.group_keys.tolist())) == num_groups


def test_corrections_of_items_that_are_not_there_are_ignored() -> None:
    index = GalleryIndex(SIZE)
    index.add(rows([Entry(1, 1, "a", None, 0), Entry(2, 2, "b", None, 1)]))
    index.remove([2])
    index.update([2, 3], [7, 7], ["c", "c"], [None, None], [None, None])
    index.update([3, 1], [7, 8], ["c", "d"], [None, EPOCH], [None, "x"])
    hits = index.search_items(embedding(0).astype(np.float32), 5, Filter())
    assert hits.identity_keys.tolist() == [8]
    only = Filter(camera_ids=frozenset("d"), track_ids=frozenset("x"), captured_after=EPOCH)
    assert index.search_items(embedding(0).astype(np.float32), 5, only).num_searched == 1
    with pytest.raises(ValueError, match="as many"):
        index.update([1], [1], [], [None], [None])
    for unknown in ([2], [1, 3], [0]):
        with pytest.raises(ValueError, match="not in the index"):
            index.embeddings(unknown)
    assert index.embeddings([]).shape == (0, SIZE)


@pytest.mark.parametrize("kind", KINDS)
def test_changes_during_a_rebuild_are_not_lost(kind: IndexKind) -> None:
    embeddings_ND = clustered(40_000)
    index = GalleryIndex(32, kind)
    index.add(clustered_rows(embeddings_ND, 0, 15_000))
    alive = dict.fromkeys(range(15_000), 0)
    for start in range(15_000, 40_000, 100):  # some of these while a structure or a compaction is made
        index.add(clustered_rows(embeddings_ND, start, start + 100))
        alive |= dict.fromkeys(range(start, start + 100), 0)
        gone = list(range(start - 15_000, start - 14_950))
        assert index.remove([number + 1 for number in gone]) == 50
        for number in gone:
            del alive[number]
        moved = start - 50
        index.update([moved + 1], [1_000_000 + moved], ["moved"], [None], [None])
        alive[moved] = 1
    index.settle()
    assert index.slots().tolist() == [number + 1 for number in sorted(alive)]
    moved_numbers = [number for number, is_moved in alive.items() if is_moved]
    for number in moved_numbers[::20]:
        hits = index.search_items(
            embeddings_ND[number].astype(np.float32), 1, Filter(camera_ids=frozenset(["moved"]))
        )
        assert hits.slots[0] == number + 1
        assert hits.identity_keys[0] == 1_000_000 + number
        assert hits.num_searched == len(moved_numbers)
    sample = sorted(alive)[::97]
    assert (index.embeddings([number + 1 for number in sample]) == embeddings_ND[sample]).all()


def test_auto_builds_a_structure_once_an_exact_search_takes_too_long(tmp_path: Path) -> None:
    embeddings_ND = clustered(60_000)
    fast, slow = GalleryIndex(32, "auto", too_long_s=60), GalleryIndex(32, "auto", too_long_s=0)
    exact = GalleryIndex(32)
    sizes = []
    for index in (exact, fast, slow):
        index.add(clustered_rows(embeddings_ND, 0, 60_000))
        index.settle()
        index.write(tmp_path / "index")
        sizes.append((tmp_path / "index").stat().st_size)
    assert sizes[0] == sizes[1] < sizes[2]
    answers = [recall(index, embeddings_ND, Filter(), list(range(60_000))) for index in (exact, fast, slow)]
    assert answers[0] == answers[1]
    assert 0.97 <= answers[2] <= answers[0]


def test_a_closed_index_still_answers_but_builds_nothing() -> None:
    embeddings_ND = clustered(12_000)
    index = GalleryIndex(32, "ivf")
    index.add(clustered_rows(embeddings_ND, 0, 11_000))
    index.close()
    index.add(clustered_rows(embeddings_ND, 11_000, 12_000))
    assert recall(index, embeddings_ND, Filter(), list(range(12_000))) >= 0.97


def test_a_file_that_is_torn_or_foreign_is_refused(tmp_path: Path) -> None:
    index = GalleryIndex(32, "ivf")
    index.add(clustered_rows(clustered(11_000), 0, 11_000))
    index.settle()
    path = tmp_path / "index"
    index.write(path)
    whole = path.read_bytes()
    num_structure = int(re.findall(rb'"structure_bytes": (\d+)', whole)[0])
    for broken in (
        b"",
        b"reid",
        whole[:-1],
        whole[: len(whole) // 2],
        whole[:40],
        whole + b"\0",
        b"x" + whole[1:],
        whole[:60] + b"\xff" * 8 + whole[68:],
        whole[:-num_structure] + b"\0" * num_structure,
    ):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"is no index|is damaged"):
            GalleryIndex.read(path, "ivf")
    GalleryIndex(SIZE).write(path)
    assert len(GalleryIndex.read(path)) == 0
    with pytest.raises(FileNotFoundError):
        GalleryIndex.read(tmp_path / "absent")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_forgotten_is_nowhere_in_the_index(kind: IndexKind, tmp_path: Path) -> None:
    embeddings_ND = clustered(12_000)
    index, twin = GalleryIndex(32, kind), GalleryIndex(32, kind)
    index.add(clustered_rows(embeddings_ND, 0, 12_000))
    index.settle()
    gone = {number for number in range(12_000) if number // 10 % 10 == 3}
    removed = [number + 1 for number in gone if number % 2]
    assert index.remove(removed) == len(removed)
    index.write(tmp_path / "index")
    written = (tmp_path / "index").read_bytes()
    number = removed[0] - 1
    assert embeddings_ND[number].tobytes() not in written  # dead rows are written as zeros
    assert embeddings_ND[number - 1].tobytes() in written
    index.update([1], [0], ["camera 0"], [EPOCH], ["secret"])
    index.update([1], [0], ["camera 0"], [EPOCH], ["track 0"])
    index.forget([number + 1 for number in gone if not number % 2] + [99_999])
    left = [number for number in range(12_000) if number not in gone]
    assert index.slots().tolist() == [number + 1 for number in left]
    index.settle()
    index.write(tmp_path / "index")
    written = (tmp_path / "index").read_bytes()
    assert not any(embeddings_ND[number].tobytes() in written for number in sorted(gone)[::40])
    assert all(embeddings_ND[number].tobytes() in written for number in left[::400])
    assert b"secret" not in written
    for start in range(0, 12_000, 1_000):
        few = clustered_rows(embeddings_ND, start, start + 1_000)
        twin.add(few)
    twin.remove([number + 1 for number in gone])
    query_D = embeddings_ND[35].astype(np.float32)  # of a forgotten identity
    ours = index.search_groups(query_D, 5, 2, Filter())
    theirs = twin.search_groups(query_D, 5, 2, Filter())
    assert ours.num_searched == theirs.num_searched == len(left)
    assert 3 not in ours.identity_keys.tolist()
    assert recall(index, embeddings_ND, Filter(), left) >= (0.97 if kind in ("hnsw", "ivf") else 1)
    index.add(clustered_rows(clustered(12_100), 12_000, 12_100))
    assert len(index) == len(left) + 100


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_built_while_items_are_forgotten_does_not_bring_them_back(kind: IndexKind) -> None:
    embeddings_ND = clustered(24_000)
    index = GalleryIndex(32, kind)
    index.add(clustered_rows(embeddings_ND, 0, 14_000))
    alive = set(range(14_000))
    for start in range(14_000, 24_000, 500):  # some of these while a structure or a compaction is made
        index.add(clustered_rows(embeddings_ND, start, start + 500))
        alive |= set(range(start, start + 500))
        removed = range(start - 14_000, start - 13_800)
        forgotten = range(start - 13_800, start - 13_750)
        index.remove([number + 1 for number in removed])
        index.forget([number + 1 for number in forgotten])
        alive -= {*removed, *forgotten}
    index.settle()
    assert index.slots().tolist() == [number + 1 for number in sorted(alive)]
    sample = sorted(alive)[::97]
    assert (index.embeddings([number + 1 for number in sample]) == embeddings_ND[sample]).all()
    assert recall(index, embeddings_ND, Filter(), sorted(alive)) >= (0.97 if kind in ("hnsw", "ivf") else 1)
    index.close()
