"""Archives and images that a job enrols: whole, with every fault told, whatever dies in between."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from archives import packed, tar_of
from killed_server import start_process, wait_for
from live_server import crop, enroll, find_free_port, images, search, serve, wait_for_job, wait_until
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.upkeep.check import check


def send(client: httpx.Client, archive: bytes, **fields: Any) -> httpx.Response:
    return client.post("/gallery", files={"archive": ("crops", archive)}, data=fields)


def import_all(client: httpx.Client, archive: bytes, **fields: Any) -> dict[str, Any]:
    answer = send(client, archive, **fields)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"
    return wait_for_job(client, answer.headers["location"])


def wait_until_done(client: httpx.Client, location: str, least: int) -> None:
    wait_until(lambda: client.get(location).json()["done"] >= least)


def items_of(client: httpx.Client) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get("/gallery", params={"limit": 1000}).json()["items"]
    return items


def manifest(*rows: dict[str, str]) -> bytes:
    file = io.StringIO()
    columns = ["path", "identity_id", "camera_id", "captured_at", "track_id"]
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


@pytest.mark.parametrize("kind", ["tar", "gz", "bz2", "zip"])
def test_an_archive_of_any_kind_is_enrolled(shared_client: httpx.Client, kind: str) -> None:
    members = {f"{kind}-{person}/{i}.jpg": crop(person, i) for person in (1, 2) for i in (1, 2, 3)}
    others = {"notes.txt": b"hello", ".hidden/x.jpg": crop(9), "__MACOSX/y.jpg": crop(9)}
    job = import_all(shared_client, packed(kind, members | others), layout="folders", camera_id=f"at {kind}")
    assert (job["state"], job["done"], job["total"], job["num_failed"]) == ("succeeded", 6, 6, 0)
    assert (job["num_skipped"], job["kind"], job["errors"]) == (3, "import", [])
    assert job["rate"] > 0
    items = shared_client.get("/gallery", params={"camera_id": f"at {kind}"}).json()["items"]
    assert [item["identity_id"] for item in items] == [f"{kind}-1"] * 3 + [f"{kind}-2"] * 3
    assert shared_client.get(items[4]["image_url"]).content == crop(2, 2)


def test_labels_come_from_the_manifest_and_every_fault_is_told(client: httpx.Client) -> None:
    seen = {"camera_id": "door", "captured_at": "2026-01-01T00:00:00Z", "track_id": "t"}
    members = {
        "gallery.csv": manifest(
            {"path": "crops/a.jpg", "identity_id": "anna"} | seen,
            {"path": "./crops/b.jpg", "identity_id": "", "camera_id": ""},
            {"path": "crops/absent.jpg", "identity_id": "x"},
            {"path": "crops/c.jpg", "captured_at": "yesterday"},
            {"path": "crops/torn.jpg", "identity_id": "x"},
            {"path": "crops/a.jpg", "identity_id": "twice"},
        ),
        "crops/a.jpg": crop(1),
        "crops/b.jpg": crop(2),
        "crops/c.jpg": crop(3),
        "crops/torn.jpg": crop(4)[:200],
        "crops/unnamed.jpg": crop(5),
    }
    job = import_all(client, tar_of(members), camera_id="elsewhere")
    assert (job["state"], job["done"], job["total"], job["num_failed"]) == ("succeeded", 7, 7, 5)
    told = [(error["position"], error["name"], error["detail"]) for error in job["errors"]]
    assert [place for place, _, _ in told] == [2, 3, 4, 5, 6]
    assert [name for _, name, _ in told][:3] == ["crops/absent.jpg", "crops/c.jpg", "crops/torn.jpg"]
    assert "captured_at" in told[1][2]
    assert "torn" in told[2][2]
    assert "does not name" in told[4][2]
    first, second = items_of(client)
    assert {field: first[field] for field in seen} == seen
    assert first["identity_id"] == "anna"
    assert (second["camera_id"], second["track_id"]) == ("elsewhere", None)


def test_a_folder_whose_name_is_no_identity_fails_its_own_crops_alone(client: httpx.Client) -> None:
    members = {f"{'x' * 256}/a.jpg": crop(1), "anna/b.jpg": crop(2), "c.jpg": crop(3)}
    job = import_all(client, tar_of(members), layout="folders")
    assert (job["state"], job["num_failed"], job["done"]) == ("succeeded", 1, 3)
    assert job["errors"][0]["name"].startswith("xxx")
    assert [item["identity_id"] == "anna" for item in items_of(client)] == [True, False]
    rows = {"gallery.csv": manifest({"path": "a\ab.jpg"}), "d.jpg": crop(4)}
    assert import_all(client, tar_of(rows))["num_failed"] == 2


def test_names_of_the_market1501_form_say_who_and_where(client: httpx.Client) -> None:
    members = {
        name: crop(i)
        for i, name in enumerate(
            ("0002_c1s1_000451_03.jpg", "-1_c3s2_001351_04.jpg", "0000_c2s1_0_0.jpg", "x.jpg")
        )
    }
    job = import_all(client, tar_of(members), layout="market1501")
    assert [error["detail"] for error in job["errors"]] == [
        "it is junk by its name",
        "its name is not of the Market-1501 form, such as 0002_c1s1_000451_03.jpg",
    ]
    known, distractor = items_of(client)
    assert (known["identity_id"], known["camera_id"], distractor["camera_id"]) == ("0002", "1", "2")
    assert distractor["identity_id"] not in ("0000", "0002")


def test_images_are_enrolled_later_when_that_is_preferred(client: httpx.Client) -> None:
    metadata = json.dumps([{"identity_id": "anna"}, {"camera_id": "door"}, {}])
    files = images(crop(1), crop(2), b"not an image")
    headers = {"Prefer": "respond-async, wait=10", "Idempotency-Key": "once"}
    answer = client.post("/gallery", files=files, data={"metadata": metadata}, headers=headers)
    assert (answer.status_code, answer.json()["kind"]) == (202, "import")
    again = client.post("/gallery", files=files, data={"metadata": metadata}, headers=headers)
    assert (again.status_code, again.json(), again.headers["location"]) == (
        202,
        answer.json(),
        answer.headers["location"],
    )
    job = wait_for_job(client, answer.headers["location"])
    assert (job["state"], job["num_failed"], job["errors"][0]["name"]) == ("succeeded", 1, "2.jpg")
    assert [item["identity_id"] == "anna" for item in items_of(client)] == [True, False]
    assert items_of(client)[1]["camera_id"] == "door"


@pytest.mark.parametrize(
    ("on_duplicate", "num", "failed"), [("return", 2, 0), ("store", 4, 0), ("reject", 2, 2)]
)
def test_duplicates_are_what_the_request_says(
    shared_client: httpx.Client, on_duplicate: str, num: int, failed: int
) -> None:
    camera = f"camera {on_duplicate}"
    enroll(shared_client, crop(1), camera_id=camera)
    members = {"a.jpg": crop(1), "b.jpg": crop(2), "c.jpg": crop(2)}
    job = import_all(shared_client, tar_of(members), camera_id=camera, on_duplicate=on_duplicate)
    assert (job["state"], job["num_failed"]) == ("succeeded", failed)
    assert search(shared_client, crop(1), camera_id=camera)["num_searched"] == num


def test_a_refused_archive_leaves_nothing(client: httpx.Client, either_settings: Settings) -> None:
    good = {f"{i}.jpg": crop(i) for i in range(100)}
    for archive in (
        b"",
        b"no archive",
        tar_of(good | {"../x.jpg": crop(1)}),
        tar_of(good)[:50_000],
    ):
        answer = send(client, archive)
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_archive"), answer.text
    assert [path for path in either_settings.crops_dir.rglob("*") if path.is_file()] == []
    both = client.post("/gallery", files=[*images(crop(1)), ("archive", tar_of(good))])
    assert both.status_code == 422
    assert send(client, tar_of(good), metadata="[]").status_code == 422
    assert send(client, tar_of(good), layout="rows").status_code == 422
    assert import_all(client, tar_of({}))["total"] == 0


def test_a_cancelled_import_keeps_what_it_has_enrolled_and_forgets_the_rest(
    client: httpx.Client, either_settings: Settings
) -> None:
    members = {f"{i}.jpg": crop(i) for i in range(300)}
    location = send(client, tar_of(members)).headers["location"]
    wait_until_done(client, location, 1)
    answer = client.delete(location)
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    done = answer.json()["done"]
    assert 0 < done < 300
    again = client.delete(location)
    assert (again.status_code, again.json()["code"]) == (409, "job_ended")
    assert import_all(client, tar_of({"last.jpg": crop(999)}))["state"] == "succeeded"  # after it has let go
    assert client.get(location).json()["state"] == "cancelled"
    assert len(items_of(client)) == done + 1
    assert len([path for path in either_settings.crops_dir.rglob("*") if path.is_file()]) == done + 1
    assert client.delete("/jobs/absent").status_code == 404


def test_an_import_that_is_killed_again_and_again_brings_every_crop_once(
    either_settings: Settings, is_long: bool
) -> None:
    num = 240 if is_long else 60
    members = {f"{i}.jpg": crop(i) for i in range(num)}
    port = find_free_port()
    process = start_process(either_settings, port)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_for(client, process)
            location = send(client, tar_of(members)).headers["location"]
            for least in (1, num // 2):
                wait_until_done(client, location, least)
                process.kill()
                process.wait()
                age_jobs(either_settings)
                process = start_process(either_settings, port)
                wait_for(client, process)
            job = wait_for_job(client, location)
            assert (job["state"], job["done"], job["num_failed"]) == ("succeeded", num, 0)
            assert len({item["sha256"] for item in items_of(client)}) == len(items_of(client)) == num
    finally:
        process.kill()
        process.wait()
    engine = make_engine(either_settings.database_url)
    assert check(Store(either_settings, make_sessions(engine)), num_recomputed=5).findings == []
    engine.dispose()


def age_jobs(settings: Settings) -> None:
    """Let the lease of what a killed server did be over."""
    engine = create_engine(settings.database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET alive_at = NULL WHERE state = 'running'"))
    engine.dispose()


def test_an_import_goes_on_after_a_stop_on_whatever_server_there_is(either_settings: Settings) -> None:
    members = {f"{i}.jpg": crop(i) for i in range(200)}
    with serve(either_settings) as client:
        location = send(client, tar_of(members)).headers["location"]
        wait_until_done(client, location, 1)
    with serve(either_settings) as client, serve(either_settings) as other:
        assert wait_for_job(other, location)["done"] == 200
        assert len(items_of(client)) == 200


def test_a_cancelled_activation_leaves_the_old_network_in_service(
    client: httpx.Client, another_checkpoint: Path
) -> None:
    with another_checkpoint.open("rb") as file:
        version = client.post("/models", files={"checkpoint": file}).json()["version"]
    for start in range(0, 192, 64):
        enroll(client, *[crop(seed) for seed in range(start, start + 64)])
    before = client.get("/models").json()["model_version"]
    location = client.post(f"/models/{version}/activate").headers["location"]
    answer = client.delete(location)
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    assert search(client, crop(1))["model_version"] == before
    location = client.post(f"/models/{version}/activate").headers["location"]
    assert wait_for_job(client, location)["state"] == "succeeded"
    assert search(client, crop(1))["model_version"] == version
    assert client.delete(location).status_code == 409
