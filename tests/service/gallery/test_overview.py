"""GET /cameras and GET /stats count what is there, and tell a limited key of its cameras alone."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from keyed import as_key, make_key, store_of
from live_server import crop, enroll, serve
from service.gallery.overview import count_gallery
from service.settings import Settings
from service.store.tables import Item

SEEN: tuple[tuple[str, str | None, str | None], ...] = (
    ("anna", "door", "2026-03-01T08:00:00Z"),
    ("anna", "door", "2026-03-02T08:00:00Z"),
    ("anna", "hall", "2026-03-03T08:00:00Z"),
    ("bert", "door", None),
    ("carl", None, "2026-02-01T08:00:00Z"),
)


def fill(client: httpx.Client) -> None:
    for seed, (identity_id, camera_id, captured_at) in enumerate(SEEN):
        fields = {"identity_id": identity_id, "camera_id": camera_id, "captured_at": captured_at}
        enroll(client, crop(seed), **{name: value for name, value in fields.items() if value})


def cameras(client: httpx.Client, **filters: Any) -> list[tuple[Any, ...]]:
    answer = client.get("/cameras", params=filters)
    assert answer.status_code == 200, answer.text
    return [tuple(camera.values()) for camera in answer.json()["cameras"]]


def test_cameras_are_counted_and_filtered(client: httpx.Client) -> None:
    assert cameras(client) == []
    fill(client)
    first, last = "2026-03-01T08:00:00Z", "2026-03-02T08:00:00Z"
    hall = ("hall", 1, 1, "2026-03-03T08:00:00Z", "2026-03-03T08:00:00Z")
    assert cameras(client) == [("door", 3, 2, first, last), hall]
    assert cameras(client, identity_id="bert") == [("door", 1, 1, None, None)]
    assert cameras(client, captured_after="2026-03-02T12:00:00Z") == [hall]
    assert cameras(client, exclude_camera_id="door") == [hall]


def test_stats_count_in_all_and_by_day(client: httpx.Client, either_settings: Settings) -> None:
    fill(client)
    client.post("/identities", json={"id": "dora"})
    stats = client.get("/stats", params={"days": 2}).json()
    assert (stats["num_items"], stats["num_identities"], stats["num_cameras"]) == (5, 4, 2)
    assert (stats["first_seen"], stats["last_seen"]) == ("2026-02-01T08:00:00Z", "2026-03-03T08:00:00Z")
    assert [day["num_items"] for day in stats["days"]] in ([0, 5], [5, 0])  # it may strike midnight
    assert stats["versions"] == client.get("/version").json()
    assert stats["runtime"] == client.get("/readyz").json()["runtime"]
    service = stats["service"]
    assert (service["index"]["kind"], service["index"]["num_items"]) == ("exact", 5)
    assert service["index"]["model_version"] == stats["versions"]["model_version"]
    assert service["storage"]["is_full"] is False
    assert service["memory_bytes"] is None or service["memory_bytes"] > 2**20
    assert (service["num_jobs"], service["num_backfilling"], service["held_expiry"]) == ({}, 0, None)

    with store_of(either_settings) as store:
        now = store.clock.now()
        midnight = datetime(now.year, now.month, now.day, tzinfo=UTC)
        times = [midnight, midnight - timedelta(microseconds=1), midnight - timedelta(days=1)]
        with store.change() as change:
            slots = change.session.scalars(select(Item.slot).order_by(Item.slot)).all()
            for slot, at in zip(slots, [*times, *times], strict=False):
                change.session.execute(update(Item).where(Item.slot == slot).values(created_at=at))
        days = count_gallery(store, 3).days[-3:]
        if store.clock.now().date() == now.date():
            counted = [(day.num_items, day.num_identities, day.num_cameras) for day in days]
            assert counted == [(0, 0, 0), (3, 2, 2), (2, 2, 1)]
        assert count_gallery(store, 0).days == []


def test_a_limited_key_is_told_of_its_cameras_alone(
    tmp_path: Path, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(tmp_path / "data")
    with serve(settings) as client:
        fill(client)
        with as_key(client, make_key(settings, "reader", cameras=["hall"])) as hall:
            seen = "2026-03-03T08:00:00Z"
            assert cameras(hall) == [("hall", 1, 1, seen, seen)]
            stats = hall.get("/stats").json()
            assert hall.get("/cameras", params={"camera_id": "door"}).json()["code"] == "camera_forbidden"
    assert (stats["num_items"], stats["num_identities"], stats["num_cameras"]) == (1, 1, 1)
    assert stats["first_seen"] == stats["last_seen"] == seen
    assert sum(day["num_items"] for day in stats["days"]) == 1
    assert stats["service"] is None


@pytest.mark.parametrize(
    ("path", "fields"), [("/cameras", {"camera": "door"}), ("/stats", {"days": 93}), ("/stats", {"days": -1})]
)
def test_what_makes_no_sense_is_refused(
    shared_client: httpx.Client, path: str, fields: dict[str, Any]
) -> None:
    answer = shared_client.get(path, params=fields)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
