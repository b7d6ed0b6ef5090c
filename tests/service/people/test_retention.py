"""Erasing by age: exactly what is too old goes, by the time that is passed in."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from live_server import crop, enroll, search, serve, wait_until
from service.errors import BadSettings
from service.people.retention import erase_expired
from service.settings import Settings, read_settings
from service.store.changes import transaction
from service.store.database import Sessions, make_sessions
from service.store.store import Store
from service.store.tables import Erasure, Identity, Item, new_id

MOMENT = datetime(2026, 6, 1, 12, tzinfo=UTC)
CAMERAS = (None, "door", "hall", "yard")
DAYS = (-400.0, -1.0, 0.0, 0.99, 1.0, 1.01, 9.99, 10.01, 29.9, 30.1, 4000.0, 9650.0, 700_000.0)


def fill(sessions: Sessions, labels: Sequence[tuple[str | None, float | None, float]]) -> None:
    """Add items by camera, and by how many days ago they were seen, if that is known, and enrolled."""
    with transaction(sessions) as change:
        kept = Identity(id="kept", created_at=MOMENT, is_kept=True)
        for number, (camera_id, seen, enrolled) in enumerate(labels):
            item = Item(
                slot=change.note("added"),
                id=new_id(),
                identity=kept if number % 2 else Identity(id=new_id(), created_at=MOMENT),
                camera_id=camera_id,
                captured_at=None if seen is None else MOMENT - timedelta(days=seen),
                created_at=MOMENT - timedelta(days=enrolled),
                sha256=f"{number:064}",
                content_type="image/jpeg",
                width=64,
                height=128,
            )
            change.session.add(item)


def is_too_old(item: Item, days: float | None, by_camera: dict[str, float]) -> bool:
    """Tell it the slow way."""
    limit = by_camera.get(item.camera_id or "", days)
    times = [item.created_at]
    if item.captured_at is not None and item.captured_at.year >= 2000:
        times.append(item.captured_at)
    return limit is not None and (MOMENT - min(times)).total_seconds() > limit * 86_400


@pytest.mark.parametrize(
    ("days", "by_camera"),
    [
        (10.0, {"door": 1.0, "yard": 30.0}),
        (10.0, {}),
        (None, {"door": 0.5}),
        (None, {}),
    ],
)
def test_exactly_what_is_too_old_is_erased(
    engine: Engine, tmp_path: Path, days: float | None, by_camera: dict[str, float]
) -> None:
    sessions = make_sessions(engine)
    settings = Settings(data_dir=tmp_path, retention_days=days, retention_days_by_camera=by_camera)
    fill(sessions, [(c, s, e) for c, s, e in product(CAMERAS, (None, *DAYS), (0.0, 20.0))])
    with sessions.read() as session:
        items = session.scalars(select(Item)).all()
    left = {item.id for item in items if not is_too_old(item, days, by_camera)}
    store = Store(settings, sessions)
    assert erase_expired(store, MOMENT) == len(items) - len(left)
    with sessions.read() as session:
        rows = session.scalars(select(Item)).all()
        assert {row.id for row in rows} == left
        assert set(session.scalars(select(Identity.id))) == {row.identity.id for row in rows} | {"kept"}
        receipts = session.scalars(select(Erasure)).all()
    assert {item_id for receipt in receipts for item_id in receipt.item_ids} == {i.id for i in items} - left
    assert all(
        (r.reason, r.identity_sha256, r.erased["cleaned"]) == ("retention", None, True) for r in receipts
    )
    assert erase_expired(store, MOMENT) == erase_expired(store, MOMENT - timedelta(days=5000)) == 0


def test_many_are_erased_a_page_at_a_time(engine: Engine, tmp_path: Path) -> None:
    sessions = make_sessions(engine)
    fill(sessions, [(None, 5.0, 0.0)] * 1_500 + [(None, 1.0, 0.0)])
    store = Store(Settings(data_dir=tmp_path, retention_days=2), sessions)
    assert erase_expired(store, MOMENT) == 1_500
    with sessions.read() as session:
        receipts = session.scalars(select(Erasure).order_by(Erasure.sequence)).all()
        assert [(len(r.item_ids), r.erased["cleaned"]) for r in receipts] == [(1_000, True), (500, True)]
        assert session.scalar(select(func.count()).select_from(Item)) == 1


def test_a_server_erases_what_is_too_old_by_itself(settings: Settings) -> None:
    with serve(settings.model_copy(update={"retention_days": 30.0})) as client:
        enroll(client, crop(1), camera_id="door")
        (other,) = enroll(client, crop(2), camera_id="hall", captured_at="2026-01-01T00:00:00Z")
    with serve(settings.model_copy(update={"retention_days_by_camera": {"hall": 1.0}})) as client:
        wait_until(lambda: client.get("/erasures").json()["erasures"])
        receipts = client.get("/erasures").json()["erasures"]
        assert (receipts[0]["reason"], receipts[0]["item_ids"]) == ("retention", [other["id"]])
        assert search(client, crop(2))["num_searched"] == 1


def test_the_settings_of_retention_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (read_settings().retention_days, read_settings().retention_days_by_camera) == (None, {})
    monkeypatch.setenv("REID_RETENTION_DAYS", "0.5")
    monkeypatch.setenv("REID_RETENTION_DAYS_BY_CAMERA", '{"door": 30, "hall": 7.5}')
    settings = read_settings()
    assert settings.retention_days == 0.5
    assert settings.retention_days_by_camera == {"door": 30, "hall": 7.5}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REID_RETENTION_DAYS", "0"),
        ("REID_RETENTION_DAYS", "inf"),
        ("REID_RETENTION_DAYS", "nan"),
        ("REID_RETENTION_DAYS_BY_CAMERA", "door=3"),
        ("REID_RETENTION_DAYS_BY_CAMERA", "[1]"),
        ("REID_RETENTION_DAYS_BY_CAMERA", '{"door": -1}'),
    ],
)
def test_a_retention_that_makes_no_sense_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings, match=name):
        read_settings()
