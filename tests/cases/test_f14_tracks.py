"""F14: a track is a camera's track id, and another one after a gap. A track id alone names no track."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from indexed_items import SIZE, embedding
from live_server import crop, enroll, images, search, serve
from loop_tracks import Seen, loop_tracks
from service.index import Filter, GalleryIndex, Rows
from service.serving.tracks import find_tracks
from service.settings import Settings
from service.store.changes import transaction
from service.store.database import make_sessions
from service.store.tables import Identity, Item, new_id
from service.versions.labelled import find_labelled

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
GAP_S = 10

SEEN = st.builds(
    Seen,
    camera_id=st.sampled_from([None, "door", "hall"]),
    track_id=st.sampled_from([None, "1", "2"]),
    captured_at=st.none() | st.integers(0, 60).map(lambda seconds: NOON + timedelta(seconds=seconds)),
)
STEP = (
    st.tuples(st.just("add"), st.lists(SEEN, min_size=1, max_size=6))
    | st.tuples(st.just("update"), st.integers(0, 99), SEEN)
    | st.tuples(st.sampled_from(["delete", "erase"]), st.sets(st.integers(0, 99), min_size=1, max_size=3))
    | st.tuples(st.just("compact"))
    | st.tuples(st.just("restart"))
)


def rows(first: int, seen: list[Seen]) -> Rows:
    slots = list(range(first, first + len(seen)))
    drawn = np.stack([embedding(slot) for slot in slots])
    cameras, tracks, times = ([getattr(one, name) for one in seen] for name in Seen._fields)
    return Rows(slots, [1] * len(seen), cameras, times, tracks, drawn)


def tracks_of(index: GalleryIndex) -> dict[int, frozenset[int]]:
    """Return for each item the items of its group, as a search by tracks tells."""
    hits = index.search_groups(embedding(0).astype(np.float32), 10_000, 10_000, Filter(), "track")
    groups: dict[int, set[int]] = {}
    for slot, key in zip(hits.slots.tolist(), hits.group_keys.tolist(), strict=True):
        groups.setdefault(key, set()).add(slot)
    return {slot: frozenset(group) for group in groups.values() for slot in group}


@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, max_size=12), st.sampled_from([0, GAP_S, 1e9]))
def test_f14_the_tracks_of_an_index_are_those_of_a_slow_twin_whatever_has_happened(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]], gap_s: float
) -> None:
    index, alive, next_slot = GalleryIndex(SIZE, track_gap_s=gap_s), dict[int, Seen](), 1
    for kind, *how in steps:
        if kind == "add":
            index.add(rows(next_slot, how[0]))
            alive |= dict(enumerate(how[0], next_slot))
            next_slot += len(how[0])
        elif kind == "update" and how[0] in alive:
            alive[how[0]] = how[1]
            camera_id, track_id, captured_at = how[1]
            index.update([how[0]], [2], [camera_id], [captured_at], [track_id])
        elif kind in ("delete", "erase"):
            getattr(index, kind)(sorted(how[0]))
            alive = {slot: seen for slot, seen in alive.items() if slot not in how[0]}
        elif kind == "compact":
            index._compact(index._state)
        elif kind == "restart":
            path = tmp_path_factory.mktemp("index") / "index"
            index.write(path)
            index = GalleryIndex.read(path, track_gap_s=gap_s)
        assert tracks_of(index) == loop_tracks(alive, gap_s)


def test_f14_a_search_that_began_before_a_change_keeps_its_tracks() -> None:
    index = GalleryIndex(SIZE, track_gap_s=GAP_S)
    index.add(rows(1, [Seen("door", "1", NOON), Seen("door", "1", NOON + timedelta(seconds=15))]))
    before, starts = index._state.columns, index._state.columns.starts.tolist()
    index.add(rows(3, [Seen("door", "1", NOON + timedelta(seconds=8))]))
    assert before.starts.tolist() == starts == [0, 1]
    assert len(set(index._state.columns.starts.tolist())) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(SEEN, max_size=12))
def test_f14_the_tracks_of_the_database_are_those_of_the_twin(seen: list[Seen]) -> None:
    index = GalleryIndex(SIZE, track_gap_s=GAP_S)
    if seen:
        index.add(rows(1, seen))
    assert tracks_of(index) == loop_tracks(dict(enumerate(seen, 1)), GAP_S)


def add_items(engine: Engine, seen: list[tuple[str, Seen]]) -> None:
    with transaction(make_sessions(engine)) as change:
        identities: dict[str, Identity] = {}
        for name, (camera_id, track_id, captured_at) in seen:
            identity = identities.setdefault(name, Identity(id=name, created_at=NOON))
            item = Item(slot=change.note("added"), id=new_id(), identity=identity, created_at=NOON)
            item.camera_id, item.track_id, item.captured_at = camera_id, track_id, captured_at
            item.sha256, item.content_type, item.width, item.height = new_id() * 2, "image/jpeg", 64, 128
            change.session.add(item)


def test_f14_an_evaluation_tells_tracks_of_one_id_apart_by_their_gap(engine: Engine) -> None:
    seen = [
        ("anna", Seen("door", "1", NOON + timedelta(days=day, seconds=s))) for day in (0, 1) for s in (0, 9)
    ]
    seen += [("bert", Seen("door", "2", NOON + timedelta(seconds=s))) for s in (0, 9)]
    seen += [("cora", Seen("hall", "2", NOON)), ("cora", Seen(None, "2", NOON))]
    add_items(engine, seen)
    with make_sessions(engine).read() as session:
        labelled = find_labelled(session, 3600)
        tracks = find_tracks(session, Item.track_id.is_not(None), 3600)
    assert labelled.slots == [1, 2, 3, 4, 7, 8]
    assert labelled.viewpoints.tolist() == [1, 1, 3, 3, 7, 8]
    assert tracks == {1: 1, 2: 1, 3: 3, 4: 3, 5: 5, 6: 5, 7: 7, 8: 8}


@pytest.fixture
def walked(client: httpx.Client) -> httpx.Client:
    """A client of a gallery with three people on tracks 1: at the door, in the hall, at the door next day."""
    for seed, camera, day in ((1, "door", 1), (2, "hall", 1), (3, "door", 2)):
        for second in (0, 30):
            at = f"2026-03-0{day}T12:00:{second:02}Z"
            fields = {"identity_id": f"p{seed}", "camera_id": camera, "track_id": "1", "captured_at": at}
            enroll(client, crop(seed, second), **fields)
    return client


def found(client: httpx.Client, **fields: Any) -> set[str]:
    matches = search(client, crop(1), top_k=100, **fields)["matches"]
    return {match["identity_id"] for match in matches}


def listed(client: httpx.Client, **fields: Any) -> set[str]:
    answer = client.get("/gallery", params=fields)
    assert answer.is_success, answer.text
    return {item["identity_id"] for item in answer.json()["items"]}


def test_f14_a_search_by_track_keeps_cameras_and_days_apart(walked: httpx.Client) -> None:
    matches = search(walked, crop(1), group_by="track", top_k=10)["matches"]
    assert sorted((match["identity_id"], len(match["items"])) for match in matches) == [
        ("p1", 2),
        ("p2", 2),
        ("p3", 2),
    ]


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"exclude_track_id": "1"}, set()),
        ({"exclude_track_id": "1", "query_camera_id": "door"}, {"p2"}),
        (
            {"exclude_track_id": "1", "query_camera_id": "door", "query_captured_at": "2026-03-01T12:10:00Z"},
            {"p2", "p3"},
        ),
        (
            {"exclude_track_id": "1", "query_camera_id": "door", "query_captured_at": "2026-03-05T12:00:00Z"},
            {"p1", "p2", "p3"},
        ),
        ({"exclude_track_id": "1", "query_camera_id": "yard"}, {"p1", "p2", "p3"}),
        ({"track_id": "1", "camera_id": "door"}, {"p1", "p3"}),
        ({"track_id": "1", "camera_id": "door", "captured_before": "2026-03-02T00:00:00Z"}, {"p1"}),
    ],
)
def test_f14_a_track_is_left_out_by_its_camera_and_time(
    walked: httpx.Client, fields: dict[str, str], left: set[str]
) -> None:
    assert found(walked, **fields) == listed(walked, **fields) == left


def test_f14_a_crop_between_two_tracks_joins_them_and_its_erasure_parts_them(client: httpx.Client) -> None:
    fields = {"camera_id": "door", "track_id": "1"}
    for hour in (8, 9):
        enroll(client, crop(1, hour), **fields, captured_at=f"2026-03-01T{hour:02}:00:00Z")
        enroll(client, crop(2, hour), **fields, captured_at=f"2026-03-01T{hour:02}:45:00Z")

    def num_tracks() -> int:
        return len(search(client, crop(1), group_by="track", top_k=10)["matches"])

    assert num_tracks() == 1
    enroll(client, crop(3), **fields, captured_at="2026-03-01T12:00:00Z")
    assert num_tracks() == 2
    enroll(client, crop(4), **fields, captured_at="2026-03-01T10:52:00Z", identity_id="between")
    assert num_tracks() == 3
    enroll(client, crop(5), **fields, captured_at="2026-03-01T11:30:00Z", identity_id="bridge")
    enroll(client, crop(6), **fields, captured_at="2026-03-01T10:30:00Z", identity_id="bridge")
    assert num_tracks() == 1
    assert client.delete("/identities/bridge", params={"mode": "erase"}).status_code == 200
    assert num_tracks() == 3


def test_f14_rejected_items_of_two_tracks_of_one_id_get_two_identities(client: httpx.Client) -> None:
    items = [
        enroll(client, crop(seed), camera_id="door", track_id="1", captured_at=at, identity_id="anna")[0]
        for seed, at in (
            (1, "2026-03-01T08:00:00Z"),
            (2, "2026-03-01T08:01:00Z"),
            (3, "2026-03-02T08:00:00Z"),
        )
    ]
    order = {"item_ids": [item["id"] for item in items]}
    assert client.post("/identities/anna/reject", json=order).status_code == 200
    now = [client.get(f"/gallery/{item['id']}").json()["identity_id"] for item in items]
    assert now[0] == now[1] != now[2]


def test_f14_the_gap_is_a_setting(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    data = tmp_path / "data"
    given = make_settings(data, track_gap_s=60)
    for gap_s, num in ((60, 2), (300, 1), (60, 2)):  # the snapshot of one start is read by the next
        with serve(given.model_copy(update={"track_gap_s": float(gap_s)})) as client:
            if not client.get("/gallery").json()["items"]:
                for minute in (0, 2):
                    at = f"2026-03-01T12:0{minute}:00Z"
                    enroll(client, crop(1, minute), camera_id="door", track_id="1", captured_at=at)
            assert len(search(client, crop(1), group_by="track")["matches"]) == num


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"query_camera_id": "door"}, "exclude_same_camera_s"),
        ({"exclude_track_id": "1", "query_captured_at": "2026-03-05T12:00:00Z"}, "query_camera_id"),
        (
            {"exclude_track_id": "1", "query_camera_id": "a", "exclude_same_camera_s": "3"},
            "query_captured_at",
        ),
    ],
)
def test_f14_fields_that_say_nothing_alone_are_asked_for(
    shared_client: httpx.Client, fields: dict[str, str], missing: str
) -> None:
    answer = shared_client.post("/search", files=images(crop(1)), data=fields)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"{missing}: is needed beside")
