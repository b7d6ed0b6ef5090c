"""Activating another network under a live gallery, over HTTP: what it takes, and what refuses it."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import text

from evaluated import enroll_people, evaluate, spoil
from live_server import (
    activate,
    crop,
    enroll,
    images,
    make_checkpoint,
    model_states,
    search,
    serve,
    upload_model,
    wait_for_job,
    wait_until,
)
from model.checkpoint import checkpoint_version
from scraped import scrape
from service.settings import Settings
from service.store.database import make_engine

SUCCEEDED = 'reid_jobs_ended_total{kind="activation",state="succeeded"}'


def crop_path(settings: Settings, sha256: str) -> Path:
    return settings.crops_dir / sha256[:2] / sha256[2:4] / sha256


def test_a_network_of_another_size_takes_over_and_gives_back(client: httpx.Client, tmp_path: Path) -> None:
    before = client.get("/readyz").json()["model_version"]
    for seed in range(6):
        enroll(client, crop(seed), crop(seed, 1), identity_id=f"p{seed}")
    gone = enroll(client, crop(50))[0]
    client.delete(f"/gallery/{gone['id']}")
    path = tmp_path / "next.safetensors"
    version = make_checkpoint(path, seed=7, architecture="mobilenet_v2")
    assert upload_model(client, path).json()["embedding_size"] == 1280
    before_activation = scrape(client)
    job = activate(client, version)
    assert (job["state"], job["done"], job["total"], job["error"]) == ("succeeded", 12, 12, None)
    for name, num in (("reid_backfilled_items_total", 12), (SUCCEEDED, 1)):
        assert scrape(client)[name] == before_activation[name] + num
    assert model_states(client) == {before: "retired", version: "active"}
    answer = search(client, crop(3, 2))
    assert (answer["model_version"], answer["num_searched"]) == (version, 12)
    assert answer["matches"][0]["identity_id"] == "p3"
    enroll(client, crop(9), identity_id="new")
    back = activate(client, before)
    assert (back["state"], back["done"]) == ("succeeded", 13)
    answer = search(client, crop(9))
    assert (answer["model_version"], answer["matches"][0]["identity_id"]) == (before, "new")


def test_activating_what_is_active_succeeds_at_once(client: httpx.Client) -> None:
    version = client.get("/readyz").json()["model_version"]
    answer = client.post(f"/models/{version}/activate")
    assert (answer.status_code, answer.json()["state"]) == (202, "succeeded")
    assert client.get(answer.headers["location"]).json()["state"] == "succeeded"


def test_enrolling_searching_and_deleting_go_on_through_a_swap(
    client: httpx.Client, another_checkpoint: Path, tiny_checkpoint: Path
) -> None:
    for start in range(0, 192, 64):
        enroll(client, *[crop(seed) for seed in range(start, start + 64)], camera_id="before")
    old, new = checkpoint_version(tiny_checkpoint), checkpoint_version(another_checkpoint)
    upload_model(client, another_checkpoint)
    top: dict[str, set[float]] = {old: set(), new: set()}

    def look() -> None:
        answer = search(client, crop(5), camera_id="before", top_k=2)
        top[answer["model_version"]].add(round(answer["matches"][1]["score"], 2))

    def change(seed: int) -> bool:
        kept, dropped = enroll(client, crop(seed, 1), crop(seed, 2), identity_id="meanwhile")
        assert kept["model_version"] in (old, new)
        return client.delete(f"/gallery/{dropped['id']}").status_code == 204

    answer = client.post(f"/models/{new}/activate")
    location = answer.headers["location"]
    num_kept = 0
    with ThreadPoolExecutor(3) as threads:
        while client.get(location).json()["state"] in ("queued", "running"):
            futures: list[Future[Any]] = [
                threads.submit(look),
                threads.submit(look),
                threads.submit(change, 200 + num_kept),
            ]
            [future.result() for future in futures]
            num_kept += 1
    assert wait_for_job(client, location)["state"] == "succeeded"
    look()
    assert len(top[new]) == 1, "scores of the two versions were mixed"
    assert len(top[old]) <= 1, "scores of the two versions were mixed"
    found = search(client, crop(5), group_by="item", top_k=1000)
    assert found["num_searched"] == len(found["matches"]) == 192 + num_kept


def test_a_missing_or_changed_crop_fails_the_activation_and_the_old_version_serves_on(
    client: httpx.Client, either_settings: Settings, another_checkpoint: Path
) -> None:
    before = client.get("/readyz").json()["model_version"]
    version = upload_model(client, another_checkpoint).json()["version"]
    enroll(client, crop(0))
    for seed, damage in ((1, b"changed"), (2, None)):
        (item,) = enroll(client, crop(seed))
        path = crop_path(either_settings, item["sha256"])
        whole = path.read_bytes()
        path.write_bytes(damage) if damage else path.unlink()
        job = activate(client, version)
        assert (job["state"], job["result"]) == ("failed", {"num_missing": 1, "missing": [item["id"]]})
        assert item["id"] in job["error"]
        assert "allow_missing" in job["error"]
        assert search(client, crop(1))["model_version"] == before
        path.write_bytes(whole)
    assert activate(client, version)["state"] == "succeeded"


def test_items_without_a_crop_are_left_out_where_that_is_allowed(
    client: httpx.Client, either_settings: Settings, another_checkpoint: Path
) -> None:
    version = upload_model(client, another_checkpoint).json()["version"]
    lost, kept = enroll(client, crop(1), crop(2))
    crop_path(either_settings, lost["sha256"]).unlink()
    job = activate(client, version, allow_missing=True)
    assert (job["state"], job["result"]["missing"]) == ("succeeded", [lost["id"]])
    answer = search(client, crop(1), group_by="item")
    assert (answer["model_version"], answer["num_searched"]) == (version, 1)
    assert answer["matches"][0]["items"][0]["id"] == kept["id"]
    assert client.get("/models/active").json()["coverage"] == 0.5
    assert client.get(f"/gallery/{lost['id']}").status_code == 200


def test_a_rollback_is_at_once_and_embeds_what_came_since(
    client: httpx.Client, another_checkpoint: Path, tiny_checkpoint: Path
) -> None:
    old, new = checkpoint_version(tiny_checkpoint), checkpoint_version(another_checkpoint)
    refused = client.post("/models/rollback")
    assert (refused.status_code, refused.json()["code"]) == (409, "nothing_to_roll_back_to")
    enroll(client, crop(1), crop(2))
    upload_model(client, another_checkpoint)
    activate(client, new)
    enroll(client, crop(3))
    answer = client.post("/models/rollback")
    assert (answer.status_code, answer.json()["model_version"]) == (202, old)
    assert wait_for_job(client, answer.headers["location"])["done"] == 3
    assert model_states(client) == {old: "active", new: "retired"}
    found = search(client, crop(3), group_by="item")
    assert (found["model_version"], found["num_searched"]) == (old, 3)
    assert found["matches"][0]["score"] > 0.99
    assert wait_for_job(client, client.post("/models/rollback").headers["location"])["model_version"] == new


def test_spoilt_embeddings_of_a_version_are_made_anew(
    client: httpx.Client, either_settings: Settings, another_checkpoint: Path
) -> None:
    first = client.get("/models/active").json()["version"]
    enroll(client, crop(1), crop(2), crop(3))
    version = upload_model(client, another_checkpoint).json()["version"]
    activate(client, version)
    engine = make_engine(either_settings.database_url)
    with engine.begin() as connection:
        torn = text('UPDATE embeddings SET "values" = :torn WHERE slot = 2 AND model_version = :v')
        connection.execute(torn, {"torn": b"torn", "v": first})
    engine.dispose()
    assert activate(client, first)["state"] == "succeeded"
    answer = search(client, crop(2), group_by="item")
    assert (answer["num_searched"], round(answer["matches"][0]["score"], 2)) == (3, 1.0)


def test_embeddings_that_another_network_made_are_not_switched_to(
    client: httpx.Client, either_settings: Settings, another_checkpoint: Path
) -> None:
    first = client.get("/models/active").json()["version"]
    enroll(client, crop(1), crop(2), crop(3))
    version = upload_model(client, another_checkpoint).json()["version"]
    activate(client, version)
    engine = make_engine(either_settings.database_url)
    with engine.begin() as connection:
        turned = text('UPDATE embeddings SET "values" = :other WHERE slot = 2 AND model_version = :v')
        connection.execute(turned, {"other": np.ones(64, "<f2").tobytes(), "v": first})
    engine.dispose()
    job = activate(client, first)
    assert job["state"] == "failed"
    assert "differs from the one that the network makes now" in job["error"]
    assert search(client, crop(1))["model_version"] == version


def test_without_crops_no_other_version_can_embed(settings: Settings, another_checkpoint: Path) -> None:
    with serve(settings.model_copy(update={"keep_crops": False})) as client:
        (item,) = enroll(client, crop(1), identity_id="anna")
        assert item["image_url"] is None
        for path in ("image", "thumbnail"):
            answer = client.get(f"/gallery/{item['id']}/{path}")
            assert (answer.status_code, answer.json()["code"]) == (410, "crop_not_kept")
        assert [path for path in settings.crops_dir.rglob("*") if path.is_file()] == []
        assert search(client, crop(1))["matches"][0]["identity_id"] == "anna"
        version = upload_model(client, another_checkpoint).json()["version"]
        refused = client.post(f"/models/{version}/activate")
        assert (refused.status_code, refused.json()["code"]) == (409, "crops_not_kept")
        assert "allow_missing" in refused.json()["detail"]
        archive = client.post("/gallery", files=images(crop(2)), headers={"Prefer": "respond-async"})
        wait_for_job(client, archive.headers["location"])
        wait_until(lambda: not [path for path in settings.crops_dir.rglob("*") if path.is_file()])
        assert activate(client, version, allow_missing=True)["result"]["num_missing"] == 2


def test_one_activation_runs_at_a_time(client: httpx.Client, another_checkpoint: Path) -> None:
    version = upload_model(client, another_checkpoint).json()["version"]
    for start in range(0, 128, 64):
        enroll(client, *[crop(seed) for seed in range(start, start + 64)])
    first = client.post(f"/models/{version}/activate")
    second = client.post(f"/models/{version}/activate")
    assert first.status_code == 202
    if second.status_code != 202:  # unless the first had ended already
        assert (second.status_code, second.json()["code"]) == (409, "activation_running")
        assert second.json()["job_id"] == first.json()["id"]
    assert wait_for_job(client, first.headers["location"])["state"] == "succeeded"


def test_what_was_active_is_active_after_a_restart(settings: Settings, another_checkpoint: Path) -> None:
    with serve(settings) as client:
        enroll(client, crop(1), identity_id="anna")
        version = upload_model(client, another_checkpoint).json()["version"]
        activate(client, version)
        score = search(client, crop(1, 1))["matches"][0]["score"]
    with serve(settings) as client:
        answer = search(client, crop(1, 1))
        assert answer["model_version"] == version
        assert answer["matches"][0]["score"] == pytest.approx(score, abs=1e-6)
        assert model_states(client)[version] == "active"


def test_an_activation_whose_process_died_goes_on_where_it_was(
    settings: Settings, another_checkpoint: Path
) -> None:
    with serve(settings) as client:
        enroll(client, *[crop(seed) for seed in range(10)])
        version = upload_model(client, another_checkpoint).json()["version"]
        job = activate(client, version)
        first = client.get("/models").json()["models"][0]["version"]
        activate(client, first)
    engine = make_engine(settings.database_url)
    with engine.begin() as connection:
        died = text("UPDATE jobs SET state = 'running', alive_at = '2026-01-01 00:00:00' WHERE id = :id")
        connection.execute(died, {"id": job["id"]})
        connection.execute(
            text("DELETE FROM embeddings WHERE slot > 4 AND model_version = :v"), {"v": version}
        )
    engine.dispose()
    with serve(settings) as client:
        assert wait_for_job(client, f"/jobs/{job['id']}")["state"] == "succeeded"
        answer = search(client, crop(3))
        assert (answer["model_version"], answer["num_searched"]) == (version, 10)


def test_a_version_must_be_compared_and_not_worse_where_that_is_asked_for(
    client: httpx.Client, either_settings: Settings, another_checkpoint: Path
) -> None:
    enroll_people(client, draw=crop)  # which any network tells apart
    before = client.get("/models/active").json()["version"]
    version = upload_model(client, another_checkpoint).json()["version"]
    path, how = f"/models/{version}/activate", {"require_better": True}
    refused = client.post(path, json=how)
    assert (refused.status_code, refused.json()["code"]) == (409, "not_evaluated")
    assert version in refused.json()["detail"]
    evaluate(client, version)
    spoil(either_settings, version)
    found = evaluate(client, version)["result"]
    refused = client.post(path, json=how)
    assert (refused.status_code, refused.json()["code"]) == (409, "not_better")
    assert refused.json()["comparison"] == found
    assert search(client, crop(1))["model_version"] == before
    assert client.post("/models/0123456789ab/activate", json=how).status_code == 404


def test_a_version_that_is_not_worse_is_activated(client: httpx.Client, another_checkpoint: Path) -> None:
    enroll_people(client, draw=crop)
    version = upload_model(client, another_checkpoint).json()["version"]
    evaluate(client, version)
    assert activate(client, version, require_better=True)["state"] == "succeeded"
    assert search(client, crop(1))["model_version"] == version


def ready(client: httpx.Client) -> str:
    return str(client.get("/readyz").json()["model_version"])


def test_processes_on_one_database_cut_over_together(
    client: httpx.Client, either_settings: Settings, another_checkpoint: Path
) -> None:
    version = upload_model(client, another_checkpoint).json()["version"]
    enroll(client, *[crop(seed) for seed in range(40)])
    with serve(either_settings) as other:
        activate(client, version)
        wait_until(lambda: {ready(client), ready(other)} == {version})
        for one in (client, other):
            answer = search(one, crop(5))
            assert (answer["model_version"], answer["num_searched"]) == (version, 40)
