"""Registering networks and swapping them under a live gallery, over HTTP."""

import json
import struct
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import text

from live_server import (
    activate,
    crop,
    enroll,
    make_checkpoint,
    search,
    serve,
    upload_model,
    wait_for_job,
)
from model.checkpoint import checkpoint_version
from service.database import make_engine
from service.settings import Settings


def crop_path(settings: Settings, sha256: str) -> Path:
    return settings.crops_dir / sha256[:2] / sha256[2:4] / sha256


def states(client: httpx.Client) -> dict[str, str]:
    return {known["version"]: known["state"] for known in client.get("/models").json()["models"]}


def test_the_first_network_is_registered_and_active(client: httpx.Client, tiny_checkpoint: Path) -> None:
    enroll(client, crop(1))
    answer = client.get("/models").json()
    (known,) = answer["models"]
    assert known["version"] == answer["model_version"] == checkpoint_version(tiny_checkpoint)
    assert (known["state"], known["num_embedded"], known["embedding_size"]) == ("active", 1, 64)
    assert known["card"]["architecture"] == known["architecture"] == "tiny"
    assert client.get(f"/models/{known['version']}").json()["version"] == known["version"]


def test_a_checkpoint_is_registered_once(
    client: httpx.Client, either_settings: Settings, another_checkpoint: Path
) -> None:
    version = checkpoint_version(another_checkpoint)
    first = upload_model(client, another_checkpoint)
    assert (first.status_code, first.json()["version"], first.json()["state"]) == (201, version, "registered")
    assert first.headers["location"] == f"/models/{version}"
    again = upload_model(client, another_checkpoint)
    assert (again.status_code, again.json()["version"]) == (200, version)
    assert len(states(client)) == 2
    kept = either_settings.models_dir / f"{version}.safetensors"
    assert kept.read_bytes() == another_checkpoint.read_bytes()
    assert len(list(either_settings.models_dir.iterdir())) == 2


def unfit_files(whole: Path, folder: Path) -> list[Path]:
    content = whole.read_bytes()
    named = {
        "empty": b"",
        "text": b"these are no weights",
        "torn": content[:-100],
        "longer": content + b"x",
        "header": struct.pack("<Q", 1 << 62) + content[8:],
        "json": struct.pack("<Q", 9) + b"not json!",
        "bare": struct.pack("<Q", 2) + b"{}",
    }
    for name, data in named.items():
        (folder / name).write_bytes(data)
    tensors = load_file(whole)
    card = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]
    first = next(name for name, tensor in tensors.items() if tensor.ndim == 4)
    save_file(tensors | {first: torch.full_like(tensors[first], torch.nan)}, folder / "nan", card)
    save_file(tensors | {first: tensors[first] * 1e30}, folder / "overflow", card)
    save_file({name: tensors[name] for name in tensors if name != first}, folder / "hole", card)
    return [path for path in folder.iterdir() if path.is_file()]


def test_an_unfit_checkpoint_is_refused_and_leaves_nothing(
    client: httpx.Client, either_settings: Settings, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "unfit"
    folder.mkdir()
    files = unfit_files(tiny_checkpoint, folder)
    assert len(files) == 10
    for path in files:
        answer = upload_model(client, path)
        assert answer.status_code == 422, path.name
        assert answer.json()["code"] == "unfit_checkpoint", path.name
        assert ".safetensors" not in answer.json()["detail"]  # the file has a name of ours meanwhile
    assert len(list(either_settings.models_dir.iterdir())) == 1
    assert len(states(client)) == 1


def test_a_network_of_another_size_takes_over_and_gives_back(client: httpx.Client, tmp_path: Path) -> None:
    before = client.get("/readyz").json()["model_version"]
    for seed in range(6):
        enroll(client, crop(seed), crop(seed, 1), identity_id=f"p{seed}")
    gone = enroll(client, crop(50))[0]
    client.delete(f"/gallery/{gone['id']}")
    path = tmp_path / "next.safetensors"
    version = make_checkpoint(path, seed=7, architecture="rga_sc_mobilenet_v2")
    assert upload_model(client, path).json()["embedding_size"] == 1280
    job = activate(client, version)
    assert (job["state"], job["done"], job["total"], job["error"]) == ("succeeded", 12, 12, None)
    assert states(client) == {before: "retired", version: "active"}
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
    first, second = enroll(client, crop(1), crop(2))
    for item, damage in ((first, b"changed"), (second, None)):
        path = crop_path(either_settings, item["sha256"])
        whole = path.read_bytes()
        path.write_bytes(damage) if damage else path.unlink()
        job = activate(client, version)
        assert job["state"] == "failed"
        assert item["id"] in job["error"]
        assert search(client, crop(1))["model_version"] == before
        path.write_bytes(whole)
    assert activate(client, version)["state"] == "succeeded"


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
        assert states(client)[version] == "active"


def test_an_activation_that_a_crash_cut_short_is_failed_and_goes_on_when_asked_again(
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
        interrupted = client.get(f"/jobs/{job['id']}").json()
        assert interrupted["state"] == "failed"
        assert "activate again" in interrupted["error"]
        assert activate(client, version)["state"] == "succeeded"
        assert search(client, crop(3))["num_searched"] == 10
