"""Registering networks and swapping them under a live gallery, over HTTP."""

import json
import struct
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import text
from typer.testing import CliRunner

from foreign_networks import SIZE, save_deadly, save_small_onnx
from live_server import (
    activate,
    crop,
    enroll,
    images,
    make_checkpoint,
    search,
    serve,
    upload_model,
    wait_for_job,
    wait_until,
    wait_until_ready,
)
from model.checkpoint import checkpoint_version, load_checkpoint, save_checkpoint
from service.cli.main import app
from service.settings import Settings
from service.store.database import make_engine


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
    assert states(client) == {old: "active", new: "retired"}
    found = search(client, crop(3), group_by="item")
    assert (found["model_version"], found["num_searched"]) == (old, 3)
    assert found["matches"][0]["score"] > 0.99
    assert wait_for_job(client, client.post("/models/rollback").headers["location"])["model_version"] == new


def test_embeddings_of_the_versions_that_were_active_last_are_kept(
    client: httpx.Client, tmp_path: Path
) -> None:
    first = client.get("/models/active").json()["version"]
    enroll(client, crop(1), crop(2))
    versions = [first]
    for seed in (11, 12):
        versions.append(make_checkpoint(tmp_path / f"{seed}.safetensors", seed))
        upload_model(client, tmp_path / f"{seed}.safetensors")
        activate(client, versions[-1])
    wait_until(lambda: num_embedded(client)[first] == 0)
    assert num_embedded(client) == dict(zip(versions, (0, 2, 2), strict=True))


def num_embedded(client: httpx.Client) -> dict[str, int]:
    return {known["version"]: known["num_embedded"] for known in client.get("/models").json()["models"]}


def test_a_version_is_deleted_with_its_file_and_its_embeddings(
    client: httpx.Client, either_settings: Settings, another_checkpoint: Path, tiny_checkpoint: Path
) -> None:
    old, new = checkpoint_version(tiny_checkpoint), checkpoint_version(another_checkpoint)
    (item,) = enroll(client, crop(1))
    upload_model(client, another_checkpoint)
    activate(client, new)
    refused = client.delete(f"/models/{new}")
    assert (refused.status_code, refused.json()["code"]) == (409, "model_in_use")
    assert client.delete(f"/models/{old}").status_code == 204
    assert client.delete(f"/models/{old}").status_code == 404
    assert [known["version"] for known in client.get("/models").json()["models"]] == [new]
    assert [path.name for path in either_settings.models_dir.iterdir()] == [f"{new}.safetensors"]
    assert search(client, crop(1))["matches"][0]["items"][0]["id"] == item["id"]
    assert client.post("/models/rollback").status_code == 409
    answer = upload_model(client, tiny_checkpoint)
    assert (answer.status_code, answer.json()["num_embedded"]) == (201, 0)


def test_a_version_whose_file_is_lost_is_failed_until_it_is_given_again(
    client: httpx.Client, either_settings: Settings, another_checkpoint: Path
) -> None:
    version = upload_model(client, another_checkpoint).json()["version"]
    path = either_settings.models_dir / f"{version}.safetensors"
    for damage in (b"other weights", None):
        path.write_bytes(damage) if damage else path.unlink()
        known = client.get(f"/models/{version}").json()
        assert known["state"] == "failed"
        assert "register it again" in known["failure"]
        assert client.get(f"/models/{version}/file").status_code == 503
        assert activate(client, version)["state"] == "failed"
        assert upload_model(client, another_checkpoint).status_code == 200
        assert states(client)[version] == "registered"
    assert client.get(f"/models/{version}/file").content == another_checkpoint.read_bytes()
    assert activate(client, version)["state"] == "succeeded"


def test_a_lost_network_in_service_is_told_and_given_again(settings: Settings, tiny_checkpoint: Path) -> None:
    with serve(settings) as client:
        enroll(client, crop(1), identity_id="anna")
        version = client.get("/models/active").json()["version"]
        (settings.models_dir / f"{version}.safetensors").unlink()
        assert search(client, crop(1))["matches"][0]["identity_id"] == "anna"
    with serve(settings, wait=False) as client:
        wait_until(lambda: version in client.get("/readyz").json()["detail"])
        assert "reid models register" in client.get("/readyz").json()["detail"]
        assert client.post("/search", files=images(crop(1))).status_code == 503
        assert states(client) == {version: "active"}
        assert client.get("/models/active").json()["failure"]
        assert upload_model(client, tiny_checkpoint).status_code == 200
        wait_until_ready(client)
        assert search(client, crop(1))["matches"][0]["identity_id"] == "anna"


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
    assert "not what the network makes" in job["error"]
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


def test_a_compatible_version_embeds_queries_at_once_and_the_gallery_behind(
    client: httpx.Client, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    old = checkpoint_version(tiny_checkpoint)
    for start in range(0, 128, 64):
        enroll(client, *[crop(seed) for seed in range(start, start + 64)])
    plain = make_checkpoint(tmp_path / "plain.safetensors", 21)
    upload_model(client, tmp_path / "plain.safetensors")
    refused = client.post(f"/models/{plain}/activate", json={"strategy": "compatible"})
    assert (refused.status_code, refused.json()["code"]) == (409, "not_compatible")
    promised = promising(tmp_path / "next.safetensors", tiny_checkpoint, old)
    upload_model(client, tmp_path / "next.safetensors")
    location = client.post(f"/models/{promised}/activate", json={"strategy": "compatible"}).headers[
        "location"
    ]
    pairs = set()
    while client.get(location).json()["state"] in ("queued", "running"):
        answer = search(client, crop(5), group_by="item", top_k=1)
        pairs.add((answer["model_version"], answer["gallery_version"]))
        assert answer["matches"][0]["score"] > 0.99
        (item,) = enroll(client, crop(500 + len(pairs)))
        assert search(client, crop(500 + len(pairs)), top_k=1)["matches"][0]["items"][0]["id"] == item["id"]
        client.delete(f"/gallery/{item['id']}")
    assert wait_for_job(client, location)["state"] == "succeeded"
    assert (promised, old) in pairs
    assert pairs <= {(old, old), (promised, old), (promised, promised)}
    answer = search(client, crop(5))
    assert (answer["model_version"], answer["gallery_version"]) == (promised, promised)


def promising(path: Path, like: Path, version: str) -> str:
    """Save the same network with a card that says it is compatible with that version."""
    checkpoint = load_checkpoint(like)
    promise = {"version": version, "rank1_cross": 90.0, "mAP_cross": 80.0, "rank1_old": 90.0, "mAP_old": 80.0}
    return save_checkpoint(path, checkpoint.network, replace(checkpoint.card, compatible_with=promise))


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


def import_onnx(client: httpx.Client, path: Path, *options: str) -> str:
    """Run `reid models import-onnx` in this process and return the version that it prints."""
    sizes = ("--height", "64", "--width", "32", "--mean", "0.485,0.456,0.406", "--std", "0.2")
    command = ["models", "import-onnx", str(path), *sizes, "--url", str(client.base_url), *options]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout.strip()


def test_a_network_of_others_takes_over_and_gives_back(client: httpx.Client, tmp_path: Path) -> None:
    before = client.get("/readyz").json()["model_version"]
    for seed in range(6):
        enroll(client, crop(seed), crop(seed, 1), identity_id=f"p{seed}")
    version = import_onnx(client, save_small_onnx(tmp_path / "small.onnx"), "--channels", "bgr")
    known = client.get(f"/models/{version}").json()
    assert (known["state"], known["architecture"], known["embedding_size"]) == (
        "registered",
        "openvino",
        SIZE,
    )
    assert (known["card"]["channels"], known["card"]["num_identities"]) == ("bgr", 0)
    assert known["card"]["mean"] == [0.406, 0.456, 0.485]
    job = activate(client, version)
    assert (job["state"], job["done"], job["error"]) == ("succeeded", 12, None)
    answer = search(client, crop(3, 2))
    assert (answer["model_version"], answer["num_searched"]) == (version, 12)
    assert answer["matches"][0]["identity_id"] == "p3"
    enroll(client, crop(9), identity_id="new")
    assert search(client, crop(9))["matches"][0]["identity_id"] == "new"
    assert activate(client, before)["state"] == "succeeded"
    assert search(client, crop(9))["model_version"] == before


def test_a_network_that_openvino_dies_of_does_not_take_the_service_with_it(
    client: httpx.Client, either_settings: Settings, tmp_path: Path
) -> None:
    save_deadly(tmp_path / "deadly.safetensors")
    answer = upload_model(client, tmp_path / "deadly.safetensors")
    assert (answer.status_code, answer.json()["code"]) == (422, "unfit_checkpoint")
    assert "the file ended the process that tried it" in answer.json()["detail"]
    enroll(client, crop(1), identity_id="anna")
    assert search(client, crop(1))["matches"][0]["identity_id"] == "anna"
    assert len(list(either_settings.models_dir.iterdir())) == len(states(client)) == 1
