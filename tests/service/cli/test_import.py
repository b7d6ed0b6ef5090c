"""`reid import` of folders and archives: what it enrols, what it refuses and names."""

import signal
import sqlite3
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from archives import tar_of
from command_line import REID, ROOT, put, run
from exported import items_of
from live_server import TIMEOUT_S, crop, serve, wait_until
from service.cli.folders import find_crops_of_folder
from service.cli.packing import pack
from service.client import CropFile
from service.settings import Settings
from service.uploads.layouts import Layout


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
        assert (
            f"failed: {market / 'holiday.jpg'}: its name is not of the Market-1501 form, such as"
            in done.stderr
        )
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
    assert (done.exit_code, "unknown column 'name'" in done.stderr) == (1, True)


def test_a_large_folder_goes_in_parts_that_hold_every_crop_once(tmp_path: Path) -> None:
    for number in range(7):
        put(tmp_path / f"{number}.jpg", bytes([number]) * 100)
    found = find_crops_of_folder(tmp_path, Layout.flat)
    assert len(found.crops) == 7
    for limits, sizes in (
        ({"max_files": 3}, [3, 3, 1]),
        ({"max_bytes": 250}, [2, 2, 2, 1]),
        ({"max_bytes": 9}, [1] * 7),
    ):
        seen: list[bytes] = []
        nums = []
        for part in pack(found.crops, **limits):
            with tarfile.open(fileobj=part.archive) as tar:
                contents = [file.read() for member in tar if (file := tar.extractfile(member))]
            *crops, manifest = contents
            assert len(manifest.splitlines()) == 1 + len(crops) == 1 + len(part.crops)
            seen += crops
            nums.append(len(crops))
        assert (nums, seen) == (sizes, [bytes([number]) * 100 for number in range(7)])
    (tmp_path / "0.jpg").unlink()
    (part,) = pack([CropFile(tmp_path / "0.jpg"), found.crops[1]])
    assert ([failure.path.name for failure in part.failures], len(part.crops)) == (["0.jpg"], 1)


@contextmanager
def held(settings: Settings) -> Iterator[None]:
    """Hold the lock of an SQLite database, so that nobody else can write."""
    holder = sqlite3.connect(settings.data_dir / "gallery.sqlite3", timeout=TIMEOUT_S, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    yield
    holder.close()


def test_ctrl_c_cancels_an_import_and_what_is_enrolled_stays(settings: Settings, tmp_path: Path) -> None:
    """Nothing is enrolled between Ctrl-C and the moment when the server is asked to cancel."""
    num_crops = 1_500  # so many that the import goes on when the database is locked
    is_asked_to_cancel = Event()

    def noticing(app: ASGIApp) -> ASGIApp:
        async def noticed(scope: Scope, receive: Receive, send: Send) -> None:
            if scope.get("method") == "DELETE":
                is_asked_to_cancel.set()
            await app(scope, receive, send)

        return noticed

    content = crop(1)
    for number in range(num_crops):
        put(tmp_path / "crops" / f"{number}.jpg", content)
    with serve(settings, wrap=noticing) as client:
        command = [*REID, "import", str(tmp_path / "crops"), "--url", str(client.base_url)]
        command += ["--on-duplicate", "store"]
        with subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=-1) as process:
            wait_until(lambda: client.get("/gallery", params={"limit": 1}).json()["items"])
            with held(settings):
                assert process.poll() is None
                process.send_signal(signal.SIGINT)
                assert is_asked_to_cancel.wait(TIMEOUT_S)
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 130, stderr
        assert "the import was cancelled; crops that were enrolled before stay" in stderr
        assert "Traceback" not in stderr
        num = len(items_of(client))
        assert 0 < num < num_crops
        assert stdout.startswith(f"{num} enrolled, 0 failed")
