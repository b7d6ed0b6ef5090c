"""Registering, listing and deleting networks, also those of others and those that are no good, over HTTP."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import httpx
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from foreign_networks import SIZE, save_deadly, save_small_onnx
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
    wait_until_ready,
)
from model.checkpoint import checkpoint_version, load_checkpoint, save_checkpoint
from service.cli.main import app
from service.settings import Settings


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
    assert len(model_states(client)) == 2
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
    assert len(model_states(client)) == 1


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
        assert model_states(client)[version] == "registered"
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
        assert model_states(client) == {version: "active"}
        assert client.get("/models/active").json()["failure"]
        assert upload_model(client, tiny_checkpoint).status_code == 200
        wait_until_ready(client)
        assert search(client, crop(1))["matches"][0]["identity_id"] == "anna"


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
    assert len(list(either_settings.models_dir.iterdir())) == len(model_states(client)) == 1


def test_a_lost_file_is_not_handed_out(
    client: httpx.Client, either_settings: Settings, another_checkpoint: Path
) -> None:
    version = upload_model(client, another_checkpoint).json()["version"]
    (either_settings.models_dir / f"{version}.safetensors").unlink()
    answer = client.get(f"/models/{version}/file")
    assert (answer.status_code, answer.json()["code"]) == (503, "model_file_lost")
    assert client.get("/models/0123456789ab/file").status_code == 404
