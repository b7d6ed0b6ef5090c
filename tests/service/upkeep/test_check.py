"""`reid check`: silent on a whole gallery, precise about a spoilt one, and repairs what can be rebuilt."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Connection, text

from live_server import activate, crop, enroll, search, serve, upload_model
from service.settings import Settings
from service.store.changes import transaction
from service.store.crops import CropStore
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.upkeep.check import Report, check
from service.upkeep.findings import FindingKind


@contextmanager
def connect(settings: Settings) -> Iterator[Connection]:
    engine = make_engine(settings.database_url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def check_gallery(settings: Settings, *, repair: bool = False) -> Report:
    engine = make_engine(settings.database_url)
    try:
        return check(Store(settings, make_sessions(engine)), repair=repair)
    finally:
        engine.dispose()


def problems(report: Report) -> list[FindingKind]:
    return [finding.kind for finding in report.findings]


@pytest.fixture
def filled(either_settings: Settings) -> Iterator[tuple[Settings, httpx.Client, list[str]]]:
    """A running gallery of six items, with its settings and their ids."""
    with serve(either_settings) as client:
        yield either_settings, client, [i["id"] for i in enroll(client, *[crop(seed) for seed in range(6)])]


Filled = tuple[Settings, httpx.Client, list[str]]


def test_a_gallery_with_a_past_is_clean(filled: Filled, another_checkpoint: Path) -> None:
    settings, client, ids = filled
    client.delete(f"/gallery/{ids[0]}")
    activate(client, upload_model(client, another_checkpoint).json()["version"])
    enroll(client, crop(1), crop(20))
    report = check_gallery(settings)
    assert report.findings == []
    assert (report.num_items, report.num_recomputed, report.is_clean) == (7, 7, True)


def test_crops_that_are_gone_or_changed_are_named_and_nothing_is_wiped(filled: Filled) -> None:
    settings, client, ids = filled
    store = CropStore(settings.crops_dir)
    gone, changed = (client.get(f"/gallery/{item_id}").json()["sha256"] for item_id in ids[:2])
    store.path(gone).unlink()
    store.path(changed).write_bytes(crop(77))
    for repair in (False, True):
        report = check_gallery(settings, repair=repair)
        assert problems(report) == [FindingKind.crop, FindingKind.crop]
        assert not report.is_clean
        assert all(item_id in f.detail for item_id, f in zip(ids[:2], report.findings, strict=True))
    assert search(client, crop(0))["num_searched"] == 6


def test_embeddings_that_are_absent_or_wrong_are_made_anew_and_found_by_a_running_server(
    filled: Filled,
) -> None:
    settings, client, ids = filled
    with connect(settings) as connection:
        slots = {row[0]: row[1] for row in connection.execute(text("SELECT id, slot FROM items"))}
        embeddings = connection.execute(text('SELECT slot, "values" FROM embeddings'))
        values = {row[0]: bytes(row[1]) for row in embeddings}
        connection.execute(text("DELETE FROM embeddings WHERE slot = :slot"), {"slot": slots[ids[0]]})
        for item_id, wrong in ((ids[1], values[slots[ids[5]]]), (ids[2], b"short"), (ids[3], b"\xff" * 128)):
            statement = text('UPDATE embeddings SET "values" = :wrong WHERE slot = :slot')
            connection.execute(statement, {"wrong": wrong, "slot": slots[item_id]})
    spoilt = check_gallery(settings)
    assert problems(spoilt) == [FindingKind.embedding] * 4
    assert {re.findall("[0-9a-f]{32}", finding.detail)[0] for finding in spoilt.findings} == set(ids[:4])
    assert check_gallery(settings, repair=True).is_clean
    assert check_gallery(settings).findings == []
    for seed, item_id in enumerate(ids):
        best = search(client, crop(seed), group_by="item", top_k=1)["matches"][0]
        assert best["items"][0]["id"] == item_id
        assert best["score"] > 0.999


def test_a_crop_of_nobody_is_removed_only_when_it_is_old_and_asked_for(either_settings: Settings) -> None:
    settings = either_settings
    with serve(settings) as client:  # which is over by then: a server purges by itself
        enroll(client, crop(1))
    store = CropStore(settings.crops_dir)
    path = store.path(store.put(b"nobody"))
    report = check_gallery(settings)
    assert (report.findings, report.num_young) == ([], 1)
    os.utime(path, times=(0, 0))
    assert problems(check_gallery(settings)) == [FindingKind.orphan]
    assert path.exists()
    assert check_gallery(settings, repair=True).is_clean
    assert not path.exists()
    assert check_gallery(settings).findings == []
    unfinished = path.with_name(f".{path.name}.0123.tmp")  # a server was killed while it wrote
    unfinished.write_bytes(b"nob")
    assert check_gallery(settings).findings == []
    os.utime(unfinished, times=(0, 0))
    assert problems(check_gallery(settings)) == [FindingKind.orphan]
    assert check_gallery(settings, repair=True).is_clean
    assert not unfinished.exists()


def test_a_spoilt_snapshot_and_a_gap_in_the_log_are_told(settings: Settings) -> None:
    with serve(settings) as client:
        enroll(client, crop(1), crop(2), crop(3))
    (path,) = settings.snapshots_dir.glob("index-*")
    path.write_bytes(path.read_bytes()[:-1])
    for repair in (False, False, True):  # to look changes nothing
        assert problems(check_gallery(settings, repair=repair)) == [FindingKind.snapshot]
    assert check_gallery(settings).findings == []
    engine = make_engine(settings.database_url)
    with transaction(make_sessions(engine)) as change:
        change.session.execute(text("DELETE FROM changes WHERE sequence = 2"))
    engine.dispose()
    assert problems(check_gallery(settings)) == [FindingKind.log]
