"""`reid export`, `reid import` and `reid erasures` against real servers: what goes out comes in the same."""

import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from archives import tar_of
from command_line import REID, ROOT, put
from live_server import TIMEOUT_S, crop, encode, enroll, find_free_port, person, search, serve
from service.cli.main import app
from service.cli.packing import Row, find_rows, pack
from service.settings import Settings
from service.store.crops import CropStore
from service.store.database import make_engine, make_sessions, migrate
from service.store.store import Store
from service.upkeep.backup import backup
from service.upkeep.restore import read_receipts, restore
from service.uploads.layouts import Layout
from training.data.manifests import read_manifest

FORMATS = ("csv", "tar", "market1501")
SAME = ("identity_id", "camera_id", "captured_at", "track_id", "sha256")


def run(client: httpx.Client, *arguments: str | Path) -> Result:
    """Run a command against a server, in this process."""
    command = [*map(str, arguments), "--url", str(client.base_url)]
    return CliRunner().invoke(app, command, catch_exceptions=False, env={"COLUMNS": "140"})


def items_of(client: httpx.Client) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get("/gallery", params={"limit": 1000}).json()["items"]
    return items


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


def rows_of(out: Path) -> list[dict[str, str]]:
    """The rows of an export, with the bytes of the crops in the place of names that differ."""
    if out.is_dir():
        read: Callable[[str], bytes] = lambda name: (out / name).read_bytes()  # noqa: E731
        rows = list(csv.DictReader(io.StringIO((out / "gallery.csv").read_text("utf-8"), newline="")))
        return [row | {"path": read(row["path"]).hex(), "item_id": ""} for row in rows]
    with tarfile.open(out) as tar:
        members = {member.name: tar.extractfile(member) for member in tar}
        contents = {name: member.read() for name, member in members.items() if member}
    rows = list(csv.DictReader(io.StringIO(contents["gallery.csv"].decode(), newline="")))
    return [row | {"path": contents[row["path"]].hex(), "item_id": ""} for row in rows]


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
    with serve(settings) as client:
        items = enroll(client, *[crop(seed) for seed in range(3)])
        path = CropStore(settings.crops_dir).path(items[0]["sha256"])
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)  # the export waits here, with the list read and no crop
        with ThreadPoolExecutor(1) as threads:
            exporting = threads.submit(run, client, "export", "--out", tmp_path / "out", "--concurrency", "1")
            with path.open("wb") as pipe:
                client.delete(f"/gallery/{items[1]['id']}")
                pipe.write(content)
            done = exporting.result()
        path.unlink()
    assert (done.exit_code, done.stdout) == (0, f"2 items in {tmp_path / 'out'}, 1 deleted meanwhile\n")
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


def test_folders_and_names_say_who_is_on_a_crop(settings: Settings, tmp_path: Path) -> None:
    folders, market = tmp_path / "folders", tmp_path / "market"
    put(folders / "anna" / "1.jpg", crop(1))
    put(folders / "bert" / "1.jpg", crop(2))
    torn = put(folders / "bert" / "2.jpg", crop(2)[:900])
    put(folders / "bell\a" / "a.jpg", crop(3))
    put(folders / "notes.txt", b"no crop")
    for name in (
        "0002_c1s1_000451_03.jpg",
        "12345_c3s1_000451_03.jpg",
        "-1_c1s1_000451_03.jpg",
        "holiday.jpg",
    ):
        put(market / name, crop(4))
    with serve(settings) as client:
        done = run(client, "import", folders, "--layout", "folders", "--camera-id", "door")
        assert done.exit_code == 1
        assert done.stdout.startswith("2 enrolled, 2 failed")
        assert f"failed: {torn}: " in done.stderr
        assert "identity_id" in done.stderr
        assert [(i["identity_id"], i["camera_id"]) for i in items_of(client)] == [
            ("anna", "door"),
            ("bert", "door"),
        ]
        done = run(client, "import", market, "--layout", "market1501", "--track-id", "t")
        assert (done.exit_code, done.stdout.split(" in ")[0]) == (1, "2 enrolled, 1 failed")
        assert f"failed: {market / 'holiday.jpg'}: its name is not of the Market-1501 form" in done.stderr
        said = {(i["identity_id"], i["camera_id"], i["track_id"]) for i in items_of(client)[2:]}
        assert said == {("0002", "1", "t"), ("12345", "3", "t")}


def test_an_archive_is_sent_as_it_is_and_a_hostile_one_refused(
    shared_client: httpx.Client, tmp_path: Path
) -> None:
    before = len(items_of(shared_client))
    path = tmp_path / "crops.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fritz/1.jpg", crop(1))
        archive.writestr("fritz/2.jpg", crop(1, 1)[:500])
        archive.writestr("fritz/notes.txt", "no crop")
    send = ("import", path, "--layout", "folders", "--camera-id", "yard")
    done = run(shared_client, *send)
    assert (done.exit_code, done.stdout.split(" in ")[0]) == (
        1,
        "1 enrolled, 1 failed, 1 other files skipped",
    )
    assert "failed: fritz/2.jpg: " in done.stderr
    assert items_of(shared_client)[-1]["identity_id"] == "fritz"
    for again, num in (("return", 1), ("store", 2)):
        run(
            shared_client,
            "import",
            path,
            "--layout",
            "folders",
            "--camera-id",
            "yard",
            "--on-duplicate",
            again,
        )
        assert len(items_of(shared_client)) == before + num
    for hostile in (tar_of({"../1.jpg": crop(1)}), tar_of({"/1.jpg": crop(1)}), b"no archive", b""):
        put(tmp_path / "x.tar", hostile)
        done = run(shared_client, "import", tmp_path / "x.tar")
        assert done.exit_code == 1
        assert done.stderr.count("\n") == 1
    assert len(items_of(shared_client)) == before + 2


def test_a_manifest_that_leads_out_of_its_folder_sends_nothing_of_that(
    shared_client: httpx.Client, tmp_path: Path
) -> None:
    put(tmp_path / "secret.jpg", crop(66))
    lines = ("path,identity_id", "../secret.jpg,x", f"{tmp_path}/secret.jpg,x", "absent.jpg,x", "a.jpg,gina")
    put(tmp_path / "in" / "gallery.csv", "\n".join(lines).encode())
    put(tmp_path / "in" / "a.jpg", crop(5))
    done = run(shared_client, "import", tmp_path / "in")
    assert (done.exit_code, done.stdout.split(" in ")[0]) == (1, "1 enrolled, 3 failed")
    assert items_of(shared_client)[-1]["identity_id"] == "gina"
    put(tmp_path / "in" / "gallery.csv", b"name,identity_id\na,b\n")
    done = run(shared_client, "import", tmp_path / "in")
    assert (done.exit_code, "has no column named path" in done.stderr) == (1, True)


def test_a_large_folder_goes_in_parts_that_hold_every_crop_once(tmp_path: Path) -> None:
    for number in range(7):
        put(tmp_path / f"{number}.jpg", bytes([number]) * 100)
    found = find_rows(tmp_path, Layout.flat)
    assert len(found.rows) == 7
    for limits, sizes in (
        ({"max_files": 3}, [3, 3, 1]),
        ({"max_bytes": 250}, [2, 2, 2, 1]),
        ({"max_bytes": 9}, [1] * 7),
    ):
        seen: list[bytes] = []
        nums = []
        for part in pack(found.rows, **limits):
            with tarfile.open(fileobj=part.archive) as tar:
                contents = [file.read() for member in tar if (file := tar.extractfile(member))]
            *crops, manifest = contents
            assert len(manifest.splitlines()) == 1 + len(crops) == 1 + len(part.rows)
            seen += crops
            nums.append(len(crops))
        assert (nums, seen) == (sizes, [bytes([number]) * 100 for number in range(7)])
    (tmp_path / "0.jpg").unlink()
    (part,) = pack([Row(tmp_path / "0.jpg", ("", "", "", "")), found.rows[1]])
    assert ([failure.path.name for failure in part.failures], len(part.rows)) == (["0.jpg"], 1)


def test_ctrl_c_cancels_an_import_and_what_is_enrolled_stays(settings: Settings, tmp_path: Path) -> None:
    large = encode(
        person(1).resize((1000, 2000))
    )  # an import of many of these takes long enough to be cancelled
    for number in range(300):
        put(tmp_path / "crops" / f"{number}.jpg", large)
    with serve(settings) as client:
        command = [*REID, "import", str(tmp_path / "crops"), "--url", str(client.base_url)]
        with subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=-1) as process:
            deadline_s = time.monotonic() + TIMEOUT_S
            while not items_of(client) and time.monotonic() < deadline_s:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 130, stderr
        assert "the import was cancelled; what is enrolled stays" in stderr
        assert "Traceback" not in stderr
        num = len(items_of(client))
        assert 0 < num < 300
        assert stdout.startswith(f"{num} enrolled, 0 failed")


def test_a_service_that_starts_for_longer_is_waited_for(settings: Settings, tmp_path: Path) -> None:
    """Its database is held by another for longer than a request is put off otherwise."""
    engine = make_engine(settings.database_url)
    migrate(engine)
    engine.dispose()
    path = settings.data_dir / "gallery.sqlite3"
    holder = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    put(tmp_path / "1.jpg", crop(1))
    with serve(settings, wait=False) as client:
        release = Timer(7, holder.close)
        release.start()
        done = run(client, "enroll", tmp_path / "1.jpg")
        release.join()
    assert (done.exit_code, "1 enrolled, 0 failed" in done.stdout) == (0, True), done.stderr


def test_receipts_of_erasures_are_printed_as_restore_reads_them(settings: Settings, tmp_path: Path) -> None:
    engine = make_engine(settings.database_url)
    store = Store(settings, make_sessions(engine))
    with serve(settings) as client:
        enroll(client, crop(1), crop(2), identity_id="anna")
        enroll(client, crop(3), identity_id="bert")
        assert json.loads(run(client, "erasures").stdout) == []
        backup(store, tmp_path / "before.tar")
        for name in ("anna", "bert"):
            assert client.delete(f"/identities/{name}", params={"mode": "erase"}).status_code == 200
        backup(store, tmp_path / "after.tar")
        put(tmp_path / "erasures.json", run(client, "erasures").stdout.encode())
    engine.dispose()
    receipts = read_receipts((tmp_path / "erasures.json").read_text(), "erasures.json")
    assert len(receipts) == 2
    for name, num in (("before.tar", 3), ("after.tar", 0)):
        target = Settings(data_dir=tmp_path / name.removesuffix(".tar"))
        num_erased = restore(target, tmp_path / name, receipts).num_erased
        assert num_erased == num
        assert not [path for path in target.crops_dir.rglob("*") if path.is_file()]


def test_commands_say_in_a_line_that_no_service_answers(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{find_free_port()}"
    put(tmp_path / "crops" / "a.jpg", crop(1))
    for command in (("export", "--out", tmp_path / "out"), ("import", tmp_path / "crops"), ("erasures",)):
        done = CliRunner().invoke(app, [*map(str, command), "--url", url], catch_exceptions=False)
        assert (done.exit_code, done.stderr.startswith(f"no service answers at {url}")) == (1, True)
