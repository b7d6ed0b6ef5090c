"""Every combination of filters, and every grouping, against brute force over SQL on a real database."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sqlalchemy import Engine, and_, insert, not_, or_, select
from sqlalchemy.orm import Session

from indexed_items import EPOCH, SIZE, embedding
from loop_tracks import Seen, loop_tracks, on_track_at
from meant_items import ATTRIBUTES, Entry, is_meant
from service.gallery.conditions import conditions, to_filter
from service.gallery.selection import Selection
from service.index import CameraTracks, Filter, GalleryIndex, Grouping, Hits, Rows, Sighting
from service.store.database import make_engine, migrate
from service.store.tables import Attribute, Embedding, Identity, Item, Model, now

VERSION = "tiny"
GAP_S = 1
"""Of tracks; the times of the items are few seconds apart."""


def some(values: str) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(values), max_size=2)


IDENTITIES = st.frozensets(st.integers(1, 5), max_size=3)
TIMES = st.integers(0, 3).map(lambda seconds: EPOCH + timedelta(seconds=seconds))
CAMERAS = st.sampled_from("abc")
MAYBE_TIMES = st.sampled_from([None, *(EPOCH + timedelta(seconds=seconds) for seconds in range(4))])
ENTRY = st.builds(
    Entry,
    identity=st.integers(1, 4),
    camera_id=st.sampled_from([None, "a", "b", "c"]),
    captured_at=MAYBE_TIMES,
    track_id=st.sampled_from([None, "x", "y", "z"]),
    embedding=st.integers(0, 5),  # few different ones: ties are common
)
ENTRIES = st.lists(ENTRY, max_size=10) | st.lists(ENTRY, min_size=20, max_size=40)
SIGHTINGS = st.builds(Sighting, CAMERAS, TIMES, st.sampled_from([0.0, 0.999999, 1.0, 2.0, 1e9]))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "camera_ids": some("abcd"),
    "excluded_camera_ids": some("abcd"),
    "captured_after": MAYBE_TIMES,
    "captured_before": MAYBE_TIMES,
    "identity_keys": st.none() | IDENTITIES,
    "excluded_identity_keys": IDENTITIES,
    "track_ids": some("xyzw"),
    "excluded_track_ids": some("xyzw"),
    "excluded_tracks": st.builds(CameraTracks, CAMERAS, some("xyz"), MAYBE_TIMES),
    "excluded_sighting": SIGHTINGS,
    "excluded_slots": st.frozensets(st.integers(0, 40), max_size=5),
}


NAMES = st.lists(st.sampled_from([f"p{key}" for key in range(1, 7)]), max_size=3)
BOUNDS = st.lists(
    st.sampled_from(
        ["height=170", "height=+170.0", "height=9.5", "height=-9.5", "height=1000", "weight=70", "hat=1"]
    ),
    max_size=2,
)
PAIRS = st.lists(st.sampled_from(["hat=red", "hat=blue", "site=north", "site=west"]), max_size=2)


Window = tuple[datetime | None, datetime | None]


def is_open(window: Window) -> bool:
    after, before = window
    return after is None or before is None or after < before


def selected(fields: dict[str, list[str]], window: Window, sighting: Sighting | None) -> Selection:
    """Return a selection, whose last three fields are given together or not at all."""
    return Selection(
        **fields,
        captured_after=window[0],
        captured_before=window[1],
        exclude_same_camera_s=sighting.within_s if sighting else None,
        query_camera_id=sighting.camera_id if sighting else None,
        query_captured_at=sighting.captured_at if sighting else None,
    )


def several(values: str) -> st.SearchStrategy[list[str]]:
    return some(values).map(sorted)


SELECTIONS = st.builds(
    selected,
    st.fixed_dictionaries(
        {},
        optional={
            "camera_id": several("abcd"),
            "exclude_camera_id": several("abcd"),
            "track_id": several("xyzw"),
            "exclude_track_id": several("xyzw"),
            "identity_id": NAMES,
            "exclude_identity_id": NAMES,
            "attribute": PAIRS,
            "attribute_at_least": BOUNDS,
            "attribute_at_most": BOUNDS,
        },
    ),
    st.tuples(MAYBE_TIMES, MAYBE_TIMES).filter(is_open),
    st.none() | SIGHTINGS,
)


def filters(max_size: int) -> st.SearchStrategy[Filter]:
    """Draw filters by so many fields at most."""
    names = st.lists(st.sampled_from(sorted(FIELDS)), max_size=max_size, unique=True)
    chosen = names.flatmap(lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names}))
    return chosen.map(lambda fields: replace(Filter(), **fields))


FILTERS = filters(2) | filters(len(FIELDS))  # many fields at once let hardly anything through


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = make_engine(f"sqlite:///{tmp_path_factory.mktemp('filters') / 'gallery.sqlite3'}")
    migrate(engine)
    yield engine
    engine.dispose()


def fill(session: Session, index: GalleryIndex, entries: list[Entry]) -> None:
    """Put items into the database and the index, delete a fifth, and update properties that were wrong."""
    session.execute(
        insert(Model).values(version=VERSION, filename="", card={}, state="active", created_at=now())
    )
    session.execute(insert(Identity), [{"key": k, "id": f"p{k}", "created_at": now()} for k in range(1, 6)])
    described = [
        {"identity_key": key, "name": name, "value": value}
        for key, attributes in ATTRIBUTES.items()
        for name, value in attributes
    ]
    session.execute(insert(Attribute), described)
    slots = range(1, len(entries) + 1)
    session.add_all(
        Item(
            slot=slot,
            id=f"{slot:032}",
            identity_key=entry.identity,
            camera_id=entry.camera_id,
            captured_at=entry.captured_at,
            track_id=entry.track_id,
            created_at=now(),
            sha256="",
            content_type="",
            width=1,
            height=1,
        )
        for slot, entry in zip(slots, entries, strict=True)
    )
    session.flush()
    session.add_all(
        Embedding(slot=slot, model_version=VERSION, values=embedding(entry.embedding).tobytes())
        for slot, entry in zip(slots, entries, strict=True)
    )
    session.flush()
    index.add(
        Rows(
            slots,
            [(entry.identity + slot) % 4 for slot, entry in zip(slots, entries, strict=True)],
            ["wrong"] * len(entries),
            [EPOCH] * len(entries),
            [None] * len(entries),
            np.array([embedding(entry.embedding) for entry in entries]).reshape(-1, SIZE),
        )
    )
    index.update(
        slots,
        [entry.identity for entry in entries],
        [entry.camera_id for entry in entries],
        [entry.captured_at for entry in entries],
        [entry.track_id for entry in entries],
    )
    gone = list(slots[::5])
    assert index.delete(gone) == len(gone)
    for item in session.scalars(select(Item).where(Item.slot.in_(gone))):
        session.delete(item)
    session.flush()


def brute_force(
    session: Session, only: Filter, query_D: NDArray[np.float32]
) -> list[tuple[float, int, int, str, str]]:
    """Return (score, slot, identity, track, camera) of every item that SQL lets through, best first."""
    found = select(Item.slot, Item.identity_key, Item.track_id, Item.camera_id, Embedding.values).join(
        Embedding, Embedding.slot == Item.slot
    )
    if only.camera_ids:
        found = found.where(Item.camera_id.in_(only.camera_ids))
    found = found.where(or_(Item.camera_id.is_(None), Item.camera_id.not_in(only.excluded_camera_ids)))
    if only.track_ids:
        found = found.where(Item.track_id.in_(only.track_ids))
    found = found.where(or_(Item.track_id.is_(None), Item.track_id.not_in(only.excluded_track_ids)))
    if only.identity_keys is not None:
        found = found.where(Item.identity_key.in_(only.identity_keys))
    found = found.where(Item.identity_key.not_in(only.excluded_identity_keys))
    found = found.where(Item.slot.not_in(only.excluded_slots))
    if only.captured_after:
        found = found.where(Item.captured_at >= only.captured_after)
    if only.captured_before:
        found = found.where(Item.captured_at < only.captured_before)
    if sighting := only.excluded_sighting:
        within = timedelta(seconds=sighting.within_s)
        window = sighting.captured_at - within, sighting.captured_at + within
        is_near = and_(Item.camera_id == sighting.camera_id, Item.captured_at.between(*window))
        unknown = or_(Item.camera_id.is_(None), Item.captured_at.is_(None))
        found = found.where(or_(unknown, not_(is_near)))
    items = session.execute(select(Item.slot, Item.camera_id, Item.track_id, Item.captured_at))
    seen = {row.slot: Seen(row.camera_id, row.track_id, row.captured_at) for row in items}
    tracks = loop_tracks(seen, GAP_S)
    if excluded := only.excluded_tracks:
        on_it = on_track_at(seen, excluded.camera_id, excluded.track_ids, excluded.captured_at, GAP_S)
        found = found.where(Item.slot.not_in(on_it))
    return sorted(
        (
            (
                float(query_D @ np.frombuffer(values, "<f2").astype(np.float32)),
                slot,
                identity,
                str(min(tracks[slot])),
                camera or "",
            )
            for slot, identity, _, camera, values in session.execute(found)
        ),
        reverse=True,
    )


def by_group(hits: Hits) -> list[tuple[float, list[int]]]:
    """Return the groups as (score, slots), as sets would compare them."""
    groups: dict[int, list[tuple[float, int]]] = {}
    for group, score, slot in zip(hits.group_keys, hits.scores, hits.slots, strict=True):
        groups.setdefault(int(group), []).append((round(float(score), 4), int(slot)))
    return sorted((max(group)[0], sorted(slot for _, slot in group)) for group in groups.values())


def expected_groups(
    twin: list[tuple[float, int, int, str, str]], by: Grouping, k: int, items_each: int
) -> list[tuple[float, list[int]]]:
    """Sort everything: the k best groups and what ties, the best items of each and what ties."""
    place = {"identity": 2, "track": 3, "camera": 4}[by]
    groups: dict[object, list[tuple[float, int]]] = {}
    for row in twin:
        groups.setdefault(row[place], []).append((round(row[0], 4), row[1]))
    best = sorted((max(group)[0] for group in groups.values()), reverse=True)
    worst = best[k - 1] if len(best) >= k else -np.inf
    answer = []
    for group in groups.values():
        scores = sorted((score for score, _ in group), reverse=True)
        last = scores[min(items_each, len(scores)) - 1]
        if scores[0] >= worst:
            answer.append((scores[0], sorted(slot for score, slot in group if score >= last)))
    return sorted(answer)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ENTRIES, FILTERS, st.integers(0, 20), st.integers(1, 8), st.sampled_from([1, 2, 5]))
def test_every_filter_and_grouping_answers_as_brute_force_over_sql(
    engine: Engine, entries: list[Entry], only: Filter, seed: int, k: int, items_each: int
) -> None:
    index = GalleryIndex(SIZE, track_gap_s=GAP_S)
    query_D = embedding(1000 + seed).astype(np.float32)
    with Session(engine) as session:  # never committed
        fill(session, index, entries)
        twin = brute_force(session, only, query_D)
    items = index.search(query_D, len(entries) + 1, only)
    assert sorted(items.slots.tolist()) == sorted(row[1] for row in twin)
    assert items.scores == pytest.approx([row[0] for row in twin], abs=1e-5)
    assert items.num_searched == len(twin)
    assert items.num_identities == len({row[2] for row in twin})
    groupings: tuple[Grouping, ...] = ("identity", "track", "camera")
    for by in groupings:
        hits = index.search_groups(query_D, k, items_each, only, by)
        assert by_group(hits) == expected_groups(twin, by, k, items_each)
        assert (hits.num_searched, hits.num_identities) == (len(twin), items.num_identities)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ENTRIES, SELECTIONS)
def test_what_is_meant_is_the_same_in_the_index_in_sql_and_to_a_reader(
    engine: Engine, entries: list[Entry], among: Selection
) -> None:
    index = GalleryIndex(SIZE, track_gap_s=GAP_S)
    with Session(engine) as session:  # never committed
        fill(session, index, entries)
        wanted = conditions(session, among, GAP_S)
        in_sql = session.scalars(select(Item.slot).where(*wanted).order_by(Item.slot)).all()
        only = to_filter(session, among)
    found = index.search(embedding(1).astype(np.float32), len(entries) + 1, only)
    there = {slot: entry for slot, entry in enumerate(entries, 1) if (slot - 1) % 5}
    seen = {slot: Seen(e.camera_id, e.track_id, e.captured_at) for slot, e in there.items()}
    excluded = set[int]()
    if among.query_camera_id:
        camera_id, at = among.query_camera_id, among.query_captured_at
        excluded = on_track_at(seen, camera_id, among.exclude_track_id, at, GAP_S)
    read = [slot for slot, entry in there.items() if is_meant(entry, among) and slot not in excluded]
    assert sorted(found.slots.tolist()) == in_sql == read


def test_nobody_is_searched_where_the_identities_are_none() -> None:
    index = GalleryIndex(SIZE)
    index.add(Rows([1], [1], [None], [None], [None], embedding(1)[None]))
    query_D = embedding(1).astype(np.float32)
    assert index.search(query_D, 1, Filter(identity_keys=frozenset())).num_searched == 0
    assert index.search(query_D, 1, Filter(identity_keys=None)).num_searched == 1
