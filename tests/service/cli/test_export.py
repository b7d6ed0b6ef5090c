"""`reid export` from real servers: what goes out can be searched, trained on and imported again."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from command_line import put, run
from exported import items_of, rows_of
from live_server import crop, encode, enroll, person, search, serve
from service.settings import Settings
from service.store.crops import CropStore
from training.data.manifests import read_manifest

FORMATS = ("csv", "tar", "market1501")
SAME = ("identity_id", "camera_id", "captured_at", "track_id", "sha256")


@pytest.fixture(scope="module")
def filled(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]
) -> Iterator[httpx.Client]:
    """A gallery of several people; nobody may change it."""
    with serve(make_settings(tmp_path_factory.mktemp("filled") / "data")) as client:
        for seed, name in enumerate(("anna", 'ben "b", the 2nd', "Zoë", "dora", "ed"), 1):
            for variant, camera in enumerate(("door", "hall")):
                at = f"2026-01-0{seed}T08:00:00.125+02:00"
                enroll(
                    client,
                    crop(seed, variant),
                    identity_id=name,
                    camera_id=camera,
                    captured_at=at,
                    track_id="t 1",
                )
        enroll(client, crop(1), identity_id="another", camera_id="door", on_duplicate="store")
        enroll(client, crop(7), encode(person(8), "PNG"), encode(person(9), "WEBP"))
        yield client


def found(client: httpx.Client, seed: int, **fields: Any) -> list[tuple[Any, ...]]:
    """What a search for someone finds: every item by what is known of it, with its score."""
    matches = search(client, crop(seed, 50), group_by="item", top_k=100, **fields)["matches"]
    told = []
    for match in matches:
        (item,) = match["items"]
        seen = (item["camera_id"], item["captured_at"], item["track_id"])
        told.append((match["identity_id"], *map(str, seen), match["score"]))
    assert [one[-1] for one in told] == sorted((one[-1] for one in told), reverse=True)
    return [(*one[:-1], pytest.approx(one[-1], abs=1e-3)) for one in sorted(told)]


@pytest.mark.parametrize("layout", FORMATS)
def test_what_is_exported_and_imported_is_found_alike(
    filled: httpx.Client, settings: Settings, tmp_path: Path, layout: str
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    done = run(filled, "export", "--out", first, "--format", layout, "--embeddings")
    assert (done.exit_code, done.stdout) == (0, f"14 items in {first}\n"), done.stderr
    with serve(settings) as empty:
        done = run(empty, "import", first)
        assert done.exit_code == 0, done.stderr
        assert done.stdout.startswith("14 enrolled, 0 failed"), done.stdout
        for seed in range(1, 8):
            for only in ({}, {"camera_id": "door"}, {"captured_after": "2026-01-02T00:00:00Z"}):
                assert found(empty, seed, **only) == found(filled, seed, **only)
        said = [[item[field] for field in SAME] for item in items_of(empty)]
        assert said == [[item[field] for field in SAME] for item in items_of(filled)]
        assert run(empty, "export", "--out", second, "--format", layout, "--embeddings").exit_code == 0
        assert rows_of(second) == rows_of(first)
        assert rows_of(first)[2]["identity_id"] == 'ben "b", the 2nd'
    if layout != "tar":
        embeddings_ND = [np.load(out / "embeddings.npy") for out in (first, second)]
        assert embeddings_ND[0].dtype == np.float16
        np.testing.assert_array_equal(*embeddings_ND)
        assert (
            json.loads((first / "gallery.json").read_text())["model_version"]
            == items_of(filled)[0]["model_version"]
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "first", "second"]


def test_embeddings_are_those_that_searches_rank_by(filled: httpx.Client, tmp_path: Path) -> None:
    assert run(filled, "export", "--out", tmp_path / "out", "--embeddings").exit_code == 0
    embeddings_ND = np.load(tmp_path / "out" / "embeddings.npy").astype(np.float32)
    with (tmp_path / "out" / "gallery.csv").open(newline="") as file:
        row_of = {row["item_id"]: place for place, row in enumerate(csv.DictReader(file))}
    best, *others = search(filled, crop(2), group_by="item", top_k=100)["matches"]
    assert best["score"] > 0.999
    query_D = embeddings_ND[row_of[best["items"][0]["id"]]]
    for match in others:
        score = float(embeddings_ND[row_of[match["items"][0]["id"]]] @ query_D)
        assert score == pytest.approx(match["score"], abs=2e-3)
    assert "embedding" not in items_of(filled)[0]


def test_a_market1501_export_is_named_as_that_data_set_is(filled: httpx.Client, tmp_path: Path) -> None:
    assert run(filled, "export", "--out", tmp_path / "out", "--format", "market1501").exit_code == 0
    names = sorted(path.name for path in (tmp_path / "out" / "bounding_box_test").iterdir())
    assert names[:3] == ["0001_c1s1_000001_00.jpg", "0001_c2s1_000002_00.jpg", "0002_c1s1_000003_00.jpg"]
    assert names[-3:] == ["0007_c0s1_000012_00.jpg", "0008_c0s1_000013_00.png", "0009_c0s1_000014_00.webp"]


def test_a_csv_export_can_be_trained_on(filled: httpx.Client, tmp_path: Path) -> None:
    done = run(filled, "export", "--out", tmp_path / "out", "--min-cameras", "2")
    assert (done.exit_code, done.stdout) == (0, f"10 items in {tmp_path / 'out'}\n")
    dataset = read_manifest(tmp_path / "out" / "gallery.csv")
    samples = {*dataset.train, *dataset.gallery}
    assert (len(samples), len({sample.pid for sample in samples}), len({s.camid for s in samples})) == (
        10,
        5,
        2,
    )
    assert {sample.pid for sample in dataset.train}.isdisjoint(sample.pid for sample in dataset.gallery)


def test_an_export_takes_filters(filled: httpx.Client, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = (
        "--camera-id",
        "hall",
        "--captured-before",
        "2026-01-03T00:00:00Z",
        "--exclude-identity-id",
        "anna",
    )
    assert run(filled, "export", "--out", out, *options).exit_code == 0
    (row,) = rows_of(out)
    assert (row["identity_id"], row["captured_at"]) == ('ben "b", the 2nd', "2026-01-02T06:00:00.125000Z")
    nobody = run(filled, "export", "--out", tmp_path / "none", "--identity-id", "nobody", "--embeddings")
    assert nobody.exit_code == 1
    assert not (tmp_path / "none").exists()


def test_an_export_that_cannot_be_ends_in_a_line_and_leaves_nothing(
    filled: httpx.Client, tmp_path: Path
) -> None:
    put(tmp_path / "there", b"mine")
    done = run(filled, "export", "--out", tmp_path / "there")
    assert (done.exit_code, done.stderr) == (
        1,
        f"{tmp_path / 'there'}: is there already; name another --out\n",
    )
    assert (tmp_path / "there").read_bytes() == b"mine"
    done = run(filled, "export", "--out", tmp_path / "out", "--captured-after", "now")
    assert done.exit_code == 1
    assert "expected an RFC 3339 time" in done.stderr
    done = run(filled, "export", "--out", tmp_path / "no folder" / "out")
    assert done.exit_code == 1
    for layout in FORMATS:
        done = run(filled, "export", "--out", tmp_path / "out", "--format", layout, "--camera-id", "none")
        assert (done.exit_code, "nothing to export" in done.stderr) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_items_deleted_meanwhile_are_left_out(settings: Settings, tmp_path: Path) -> None:
    """The item is deleted when the export asks for its first crop: the list is read then."""
    to_delete: list[str] = []

    def deleting(app: ASGIApp) -> ASGIApp:
        async def deleted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope.get("path", "").endswith("/image"):
                while to_delete:
                    await run_in_threadpool(client.delete, to_delete.pop())
            await app(scope, receive, send)

        return deleted

    with serve(settings, wrap=deleting) as client:
        items = enroll(client, *[crop(seed) for seed in range(3)])
        to_delete.append(f"/gallery/{items[1]['id']}")
        done = run(client, "export", "--out", tmp_path / "out", "--concurrency", "1")
    assert (done.exit_code, done.stdout) == (
        0,
        f"2 items in {tmp_path / 'out'}, 1 deleted during the export\n",
    )
    assert [row["path"] for row in rows_of(tmp_path / "out")] == [crop(0).hex(), crop(2).hex()]


def test_a_crop_that_is_missing_is_named_and_the_others_are_exported(
    settings: Settings, tmp_path: Path
) -> None:
    with serve(settings) as client:
        first, _ = enroll(client, crop(1), crop(2))
        CropStore(settings.crops_dir).path(first["sha256"]).unlink()
        done = run(client, "export", "--out", tmp_path / "out", "--embeddings")
    assert (done.exit_code, done.stdout) == (1, f"1 items in {tmp_path / 'out'}, 1 failed\n")
    assert done.stderr.startswith(f"failed: {first['id']}: the stored crop ")
    assert [row["path"] for row in rows_of(tmp_path / "out")] == [crop(2).hex()]
    assert np.load(tmp_path / "out" / "embeddings.npy").shape == (1, 64)
