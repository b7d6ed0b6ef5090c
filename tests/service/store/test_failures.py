"""A full disk, a read-only folder, a database that goes away: told clearly, nothing lost, over by itself."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from command_line import reid
from live_server import (
    activate,
    crop,
    enroll,
    images,
    search,
    serve,
    upload_model,
    wait_for_job,
    wait_until,
)
from own_postgres import OwnPostgres
from service.settings import Settings
from service.store.crops import CropStore
from service.store.database import make_engine
from service.store.tables import Change, Identity, Item, Job, Model, now
from small_disk import MAY_MOUNT, run_on_disk, serve_on_small_disk


@pytest.mark.skipif(not MAY_MOUNT, reason="this user may not mount a small disk")
def test_a_full_disk_is_told_loses_nothing_and_is_over_when_there_is_room(
    settings: Settings, tmp_path: Path
) -> None:
    with serve_on_small_disk(tmp_path, settings, 24, REID_MIN_FREE_BYTES="0") as client:
        kept = [enroll(client, crop(seed), identity_id=f"p{seed}")[0]["id"] for seed in range(5)]
        run_on_disk(tmp_path, f"dd if=/dev/zero of={tmp_path}/disk/filler bs=1M 2>/dev/null")
        for seed in range(100, 400):
            answer = client.post("/gallery", files=images(crop(seed)))
            if answer.status_code != 201:
                break
            kept.append(answer.json()["items"][0]["id"])
        assert answer.status_code == 507, answer.text
        assert answer.json()["code"] == "storage_full"
        assert search(client, crop(3))["matches"][0]["identity_id"] == "p3"
        run_on_disk(tmp_path, f"rm {tmp_path}/disk/filler")
        kept.append(enroll(client, crop(999))[0]["id"])
        found = search(client, crop(3), group_by="item", top_k=1000)
        assert {match["items"][0]["id"] for match in found["matches"]} == set(kept)
        for item_id in kept:
            assert client.get(f"/gallery/{item_id}/image").status_code == 200


@pytest.mark.skipif(not MAY_MOUNT, reason="this user may not mount a small disk")
def test_an_activation_that_finds_the_disk_full_fails_with_the_reason_and_goes_on_when_asked_again(
    settings: Settings, another_checkpoint: Path, tmp_path: Path
) -> None:
    people = [crop(seed) for seed in range(50)]
    with serve(settings) as client:
        for _ in range(40):
            enroll(client, *people, on_duplicate="store")
        version = upload_model(client, another_checkpoint).json()["version"]
    with serve_on_small_disk(tmp_path, settings, 24, REID_MIN_FREE_BYTES="0") as client:
        filler = tmp_path / "disk" / "filler"
        fill = f"dd if=/dev/zero of={filler} bs=1K 2>/dev/null; truncate -s -700K {filler}"
        run_on_disk(tmp_path, fill)
        answer = client.post(f"/models/{version}/activate", json={})
        assert answer.status_code == 202, answer.text
        location = answer.headers["location"]
        wait_until(lambda: "job failed" in (tmp_path / "log").read_text())
        assert 0 < client.get(location).json()["done"] < 2_000
        assert search(client, people[3])["model_version"] != version
        run_on_disk(tmp_path, f"rm {filler}")
        job = wait_for_job(client, location)
        assert job["state"] == "failed"
        assert "no room left" in job["error"]
        assert activate(client, version)["state"] == "succeeded"
        found = search(client, people[3])
        assert (found["model_version"], found["num_searched"]) == (version, 2_000)


@pytest.mark.skipif(not MAY_MOUNT, reason="this user may not mount a small disk")
def test_a_data_folder_that_becomes_read_only_is_told_and_searches_go_on(
    settings: Settings, tmp_path: Path
) -> None:
    with serve_on_small_disk(tmp_path, settings, 24) as client:
        enroll(client, crop(1), identity_id="anna")
        crops = tmp_path / "disk" / "crops"
        run_on_disk(tmp_path, f"mount --bind {crops} {crops} && mount -o remount,ro,bind {crops}")
        answer = client.post("/gallery", files=images(crop(2)))
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        assert search(client, crop(1))["matches"][0]["identity_id"] == "anna"
        run_on_disk(tmp_path, f"umount -l {crops}")
        enroll(client, crop(2), identity_id="bert")
        assert search(client, crop(2))["matches"][0]["identity_id"] == "bert"


def test_a_database_that_goes_away_is_told_and_used_again_when_it_is_back(
    own_postgres: OwnPostgres, tmp_path: Path, make_settings: Callable[..., Settings]
) -> None:
    with serve(make_settings(tmp_path / "data", database_url=own_postgres.url)) as client:
        (item,) = enroll(client, crop(1), identity_id="anna")
        own_postgres.stop()
        for answer in (
            client.post("/gallery", files=images(crop(2))),
            client.post("/search", files=images(crop(1))),
            client.get(f"/gallery/{item['id']}"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable"), answer.text
            assert "retry-after" in answer.headers
        assert client.get("/livez").status_code == 200
        own_postgres.start()
        assert search(client, crop(1))["matches"][0]["identity_id"] == "anna"
        enroll(client, crop(2), identity_id="bert")
        assert search(client, crop(2))["matches"][0]["identity_id"] == "bert"


def test_a_damaged_database_is_told_with_what_to_do(settings: Settings) -> None:
    path = settings.data_dir / "gallery.sqlite3"
    with serve(settings) as client:
        enroll(client, crop(1), identity_id="anna")
    whole = path.read_bytes()
    with serve(settings) as client:
        path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
        for answer in (
            client.get("/gallery"),
            client.post("/search", files=images(crop(1))),
            client.delete("/identities/anna?mode=erase"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "database_damaged"), answer.text
            assert "restore a backup" in answer.json()["detail"]
        path.write_bytes(whole)


@pytest.mark.parametrize("command", ["check", "backup"])
def test_a_command_on_no_gallery_or_a_damaged_one_says_so_in_a_sentence(tmp_path: Path, command: str) -> None:
    data_dir = tmp_path / "data"
    arguments = [tmp_path / "x.reid"] if command == "backup" else []

    def run() -> str:
        done = reid(command, *arguments, "--data-dir", data_dir)
        assert done.returncode == 1
        said = done.stdout + done.stderr
        assert len(said.splitlines()) == 1, said
        return said

    assert "there is no gallery" in run()
    assert list(tmp_path.iterdir()) == []
    data_dir.mkdir()
    (data_dir / "gallery.sqlite3").write_bytes(b"no database" * 1_000)
    assert "is damaged" in run()


def test_a_crop_that_is_deleted_by_hand_is_told_and_served_again_when_it_is_back(
    client: httpx.Client, either_settings: Settings
) -> None:
    (item,) = enroll(client, crop(1), identity_id="anna")
    path = CropStore(either_settings.crops_dir).path(item["sha256"])
    path.rename(path.with_suffix(".away"))
    for url in (item["image_url"], f"/gallery/{item['id']}/thumbnail"):
        answer = client.get(url)
        assert (answer.status_code, answer.json()["code"]) == (503, "crop_missing")
        assert item["sha256"] in answer.json()["detail"]
        assert "retry-after" in answer.headers
    assert search(client, crop(1))["matches"][0]["identity_id"] == "anna"
    path.with_suffix(".away").rename(path)
    assert client.get(item["image_url"]).content == crop(1)


def test_a_clock_that_was_set_back_stops_nothing(either_settings: Settings, another_checkpoint: Path) -> None:
    """What the gallery has from before then looks as if it came from the future."""
    with serve(either_settings) as client:
        first = [item["id"] for item in enroll(client, crop(1), crop(2), identity_id="anna")]
        version = upload_model(client, another_checkpoint).json()["version"]
        assert activate(client, version)["state"] == "succeeded"
    engine = make_engine(either_settings.database_url)
    ahead = timedelta(days=400)
    with Session(engine) as session, session.begin():
        for row in (
            row for table in (Item, Identity, Model, Change) for row in session.scalars(select(table))
        ):
            for name in {"created_at", "activated_at", "at"} & set(inspect(row).attrs.keys()):
                setattr(row, name, getattr(row, name) and getattr(row, name) + ahead)
        for job in session.scalars(select(Job)):  # one that was cut short: nobody can wait 400 days for it
            job.state, job.alive_at, job.created_at = "running", now() + ahead, now() + ahead
    engine.dispose()
    with serve(either_settings) as client:
        assert client.get("/models").json()["model_version"] == version
        (cut_short,) = client.get("/jobs").json()["jobs"]
        assert wait_for_job(client, f"/jobs/{cut_short['id']}")["state"] == "succeeded"
        second = enroll(client, crop(3), identity_id="bert")[0]["id"]
        assert [item["id"] for item in client.get("/gallery").json()["items"]] == [*first, second]
        assert search(client, crop(3))["matches"][0]["identity_id"] == "bert"
        old = next(m["version"] for m in client.get("/models").json()["models"] if m["version"] != version)
        assert activate(client, old)["state"] == "succeeded"
        assert client.delete(f"/gallery/{first[0]}").status_code == 204
        assert search(client, crop(1))["num_searched"] == 2
