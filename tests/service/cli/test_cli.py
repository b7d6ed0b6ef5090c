"""The `reid` command as a user runs it: processes of their own, a real server, real files."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from command_line import REID, ROOT, put, reid
from live_server import TIMEOUT_S, crop
from model.data.market import parse_market1501_name
from service.cli.folders import find_crops
from service.client import CropFile
from service.uploads.layouts import Layout


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    url: str
    printed: str

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")


MakeEnv = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="session")
def make_env(checkpoints: Path) -> MakeEnv:
    """The environment of a new gallery in a folder, that starts with the tiny network, already converted."""

    def make(data_dir: Path) -> dict[str, str]:
        shutil.copytree(checkpoints / "cache", data_dir / "cache")
        chosen = {
            "REID_DATA_DIR": str(data_dir),
            "REID_DEFAULT_CHECKPOINT": str(checkpoints / "tiny.safetensors"),
        }
        return {**os.environ, "COLUMNS": "140", **chosen}

    return make


@contextmanager
def reid_serve(
    env: dict[str, str], log_path: Path, *options: str, until: str = "webbrowser"
) -> Iterator[Server]:
    """Run `reid serve` on a free port until it has printed what to try."""
    command = [*REID, "serve", "--port", "0", *options]
    with (
        log_path.open("w") as log,
        subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=log
        ) as process,
    ):
        try:
            printed = read_until(process, until)
            found = re.search(r"starting .*on (http://\S+),", printed)
            assert found, printed + log_path.read_text()
            yield Server(process, found[1], printed)
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


def read_until(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            break
    return "".join(lines)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, make_env: MakeEnv) -> Iterator[Server]:
    """One server for all tests that mind nobody's items."""
    folder = tmp_path_factory.mktemp("cli")
    with reid_serve(make_env(folder / "data"), folder / "log") as running:
        yield running


def test_serve_says_what_it_serves_and_three_commands_to_try(server: Server) -> None:
    assert "0 items in the gallery" in server.printed
    tries = [line for line in server.printed.splitlines() if line.startswith("  ")]
    assert len(tries) == 3
    assert all(server.url in line for line in tries)


def test_enrolling_a_folder_goes_on_after_a_torn_file_and_names_it(server: Server, tmp_path: Path) -> None:
    for variant in range(1, 20):
        put(tmp_path / "anna" / f"{variant:02}.jpg", crop(1, variant))
    torn = put(tmp_path / "anna" / "05 torn [bold].jpg", crop(1)[:900])
    put(tmp_path / "bert" / "a.jpg", crop(2))
    put(tmp_path / "bert" / "notes.txt", b"not a crop")
    empty = put(tmp_path / "bert" / "z.jpg", b"")
    done = reid("enroll", tmp_path, "--url", server.url, "--layout", "folders", "--camera-id", "door")
    assert done.returncode == 1
    assert "20 enrolled, 2 failed" in done.stdout
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed:")]
    assert [line.split(": ")[1] for line in failed] == [str(torn), str(empty)]
    assert "1 other files skipped" in done.stderr

    searched = reid("search", put(tmp_path / "query.jpg", crop(1, 50)), "--url", server.url)
    assert searched.returncode == 0, searched.stderr
    first = next(line for line in searched.stdout.splitlines() if re.match(r"│ 1 ", line))
    assert [cell.strip() for cell in first.split("│")[1:3]] == ["1", "anna"]
    assert "door" in first


def test_a_folder_whose_name_is_refused_does_not_stop_the_others(server: Server, tmp_path: Path) -> None:
    put(tmp_path / "bell\a" / "a.jpg", crop(11))
    put(tmp_path / "cleo" / "a.jpg", crop(12))
    done = reid("enroll", tmp_path, "--url", server.url, "--layout", "folders")
    assert done.returncode == 1
    assert "1 enrolled, 1 failed" in done.stdout


def test_market1501_names_give_identity_and_camera_and_junk_is_told(server: Server, tmp_path: Path) -> None:
    put(tmp_path / "0702_c3s1_000451_03.jpg", crop(21))
    put(tmp_path / "-1_c3s1_000451_04.jpg", crop(22))
    put(tmp_path / "0000_c5s1_000451_05.jpg", crop(23))
    done = reid("enroll", tmp_path, "--url", server.url, "--layout", "market1501")
    assert done.returncode == 0, done.stderr
    assert "2 enrolled, 0 failed" in done.stdout
    assert "1 junk and 0 other files skipped" in done.stderr

    known = reid(
        "search", tmp_path / "0702_c3s1_000451_03.jpg", "--url", server.url, "--json", "--top-k", "1"
    )
    (match,) = json.loads(known.stdout)["matches"]
    assert (match["identity_id"], match["items"][0]["camera_id"]) == ("0702", "3")
    distractor = reid("search", tmp_path / "0000_c5s1_000451_05.jpg", "--url", server.url, "--json")
    best = json.loads(distractor.stdout)["matches"][0]
    assert best["identity_id"] != "0000"
    assert best["items"][0]["camera_id"] == "5"


def test_search_passes_its_filters_on(server: Server, tmp_path: Path) -> None:
    query = put(tmp_path / "a.jpg", crop(31))
    for camera_id in ("north", "south"):
        done = reid("enroll", query, "--url", server.url, "--camera-id", camera_id, "--identity-id", "dora")
        assert done.returncode == 0, done.stderr
    done = reid(
        "search", query, "--url", server.url, "--json", "--camera-id", "south", "--camera-id", "north"
    )
    assert {item["camera_id"] for item in json.loads(done.stdout)["matches"][0]["items"]} == {
        "north",
        "south",
    }
    excluding = ["--camera-id", "north", "--camera-id", "south", "--exclude-camera-id", "north"]
    done = reid("search", query, "--url", server.url, "--json", "--group-by", "item", *excluding)
    assert [match["items"][0]["camera_id"] for match in json.loads(done.stdout)["matches"]] == ["south"]
    done = reid("search", query, "--url", server.url, "--camera-id", "nowhere")
    assert "no match" in done.stdout


def test_a_refused_search_prints_why(server: Server, tmp_path: Path) -> None:
    done = reid("search", put(tmp_path / "a.jpg", b"no image"), "--url", server.url)
    assert done.returncode == 1
    assert "images[0]" in done.stderr


def test_a_model_is_registered_activated_and_listed(server: Server, another_checkpoint: Path) -> None:
    version = reid("models", "register", another_checkpoint, "--url", server.url).stdout.strip()
    done = reid("models", "activate", version, "--url", server.url)
    assert (done.returncode, done.stdout.strip()) == (0, f"{version} is in service")
    listed = reid("models", "list", "--url", server.url).stdout
    assert re.search(rf"{version}\s+│ active", listed), listed
    refused = reid("models", "activate", "0" * 12, "--url", server.url)
    assert refused.returncode == 1
    assert "0" * 12 in refused.stderr


def test_crops_are_verified_against_others_or_an_identity(server: Server, tmp_path: Path) -> None:
    first, again = put(tmp_path / "a.jpg", crop(70)), put(tmp_path / "b.jpg", crop(70, 1))
    reid("enroll", first, "--identity-id", "vera", "--url", server.url)
    for options in (["--against", again, "--against", first], ["--identity", "vera"]):
        done = reid("verify", first, *options, "--url", server.url)
        assert done.returncode == 0
        assert re.match(r"no decision.*: score (0\.9|1\.0)", done.stdout), done.stdout
    refused = reid("verify", first, "--url", server.url)
    assert (refused.returncode, "other_images or identity_id" in refused.stderr) == (1, True)


def test_a_model_is_judged_beside_the_active_one(
    server: Server, another_checkpoint: Path, tmp_path: Path
) -> None:
    version = reid("models", "register", another_checkpoint, "--url", server.url).stdout.strip()
    for camera in ("left", "right"):
        for person in range(80, 86):
            path = put(tmp_path / f"{person}.jpg", crop(person, len(camera)))
            with path.open("rb") as file:
                form = {"identity_id": f"judged {person}", "camera_id": camera}
                httpx.post(f"{server.url}/gallery", files={"images": file}, data=form).raise_for_status()
    done = reid("models", "evaluate", version, "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{version}[^\n]*│ 100\.00", done.stdout), done.stdout
    assert re.search(r"mAP: [+-]\d+\.\d\d, 95 % interval", done.stdout), done.stdout
    refused = reid("models", "evaluate", "0" * 12, "--url", server.url)
    assert (refused.returncode, "0" * 12 in refused.stderr) == (1, True)


def test_a_port_in_use_is_told_in_a_sentence(server: Server, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    done = reid("serve", "--port", port, "--data-dir", tmp_path)
    assert done.returncode == 1
    assert re.search(rf"port {port}: .*in use", done.stdout + done.stderr)


def test_a_checkpoint_that_cannot_be_served_ends_the_start_with_a_sentence(
    make_env: MakeEnv, tmp_path: Path
) -> None:
    torn = put(tmp_path / "torn.safetensors", b"not a checkpoint")
    env = {**make_env(tmp_path / "data"), "REID_DEFAULT_CHECKPOINT": str(torn)}
    done = reid("serve", "--port", "0", env=env)
    assert done.returncode == 1
    assert "start failed" in done.stderr


def test_a_setting_without_a_usable_value_is_named() -> None:
    done = reid("serve", env={**os.environ, "REID_PORT": "banana"})
    assert done.returncode == 1
    assert "REID_PORT" in done.stdout + done.stderr


def test_a_service_that_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    query = put(tmp_path / "a.jpg", crop(1))
    for command in (["enroll", query], ["search", query], ["models", "list"]):
        done = reid(*command, "--url", "http://127.0.0.1:9")
        assert done.returncode == 1
        assert "no service answers at http://127.0.0.1:9; start one with `reid serve`" in done.stderr


def test_after_ctrl_c_a_request_that_is_under_way_is_finished(make_env: MakeEnv, tmp_path: Path) -> None:
    form = httpx.Request("POST", "http://service/gallery", files={"images": ("a.jpg", crop(1))})
    body = form.read()
    with reid_serve(make_env(tmp_path / "data"), tmp_path / "log") as running:
        connection = http.client.HTTPConnection(running.address, timeout=TIMEOUT_S)
        connection.putrequest("POST", "/gallery")
        for name in ("content-type", "content-length"):
            connection.putheader(name, form.headers[name])
        connection.endheaders(body[:100])
        time.sleep(0.5)
        running.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        connection.send(body[100:])
        assert connection.getresponse().status == 201
        connection.close()
        told = read_until(running.process, "stopped")
        assert told.endswith("stopped\n"), (tmp_path / "log").read_text()
        assert running.process.wait(TIMEOUT_S) == 0


def test_check_says_what_is_wrong_by_its_exit_code_too(make_env: MakeEnv, tmp_path: Path) -> None:
    env = make_env(tmp_path / "data")
    with reid_serve(env, tmp_path / "log") as running:
        reid("enroll", put(tmp_path / "a.jpg", crop(1)), "--url", running.url)
        done = reid("check", env=env)
        assert done.stdout.strip().endswith("1 items checked, 1 of them embedded anew: all is well")
        assert done.returncode == 0
    (path,) = (tmp_path / "data" / "crops").glob("*/*/*")
    path.unlink()
    done = reid("check", "--data-dir", tmp_path / "data", env=env)
    assert done.returncode == 1
    assert "a crop is gone or has changed: item " in done.stdout


def test_three_workers_on_one_port_answer_alike(make_env: MakeEnv, tmp_path: Path) -> None:
    command = ("--workers", "3")
    with reid_serve(make_env(tmp_path / "data"), tmp_path / "log", *command, until="ready") as running:
        for _ in range(2):
            assert "items in the gallery" in read_until(running.process, "ready")
        ids = []
        for seed in range(12):  # a connection each: whichever worker takes it
            answer = httpx.post(f"{running.url}/gallery", files={"images": ("a.jpg", crop(seed))}, timeout=60)
            ids.append(answer.json()["items"][0]["id"])
            form = {"group_by": "item", "top_k": 100}
            found = httpx.post(f"{running.url}/search", files={"images": ("a.jpg", crop(seed))}, data=form)
            assert {match["items"][0]["id"] for match in found.json()["matches"]} == set(ids)
        running.process.send_signal(signal.SIGTERM)
        assert read_until(running.process, "stopped").endswith("stopped\n")
        assert running.process.wait(TIMEOUT_S) == 0


def test_workers_that_cannot_start_end_with_the_reason(make_env: MakeEnv, tmp_path: Path) -> None:
    env = make_env(tmp_path / "data") | {"REID_DEFAULT_CHECKPOINT": str(tmp_path / "absent.safetensors")}
    done = reid("serve", "--port", "0", "--workers", "2", env=env)
    assert done.returncode == 1
    assert "absent.safetensors does not exist" in done.stdout + done.stderr


def test_a_market1501_name_is_read_from_its_beginning() -> None:
    assert parse_market1501_name("1501_c6s4_014877_05.jpg.jpg") == ("1501", "6")
    assert parse_market1501_name("x0002_c1s1_000451_03.jpg") is None
    assert parse_market1501_name("00002_c1s1_000451_03.jpg") is None


def test_folders_are_read_in_order_each_file_once_and_hidden_ones_not_at_all(tmp_path: Path) -> None:
    names = ["b/2.JPG", "a/1.png", "b/1.webp", "Thumbs.db", ".cache/1.jpg", "b/.1.jpg"]
    for name in names:
        put(tmp_path / name, b"")
    findings = find_crops([tmp_path, tmp_path / "b"], Layout.folders)
    crops = [("a/1.png", "a"), ("b/1.webp", "b"), ("b/2.JPG", "b")]
    assert list(findings.crops) == [CropFile(tmp_path / name, identity_id) for name, identity_id in crops]
    assert findings.num_not_images == 1


def test_a_file_that_is_named_itself_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    path = put(tmp_path / "crop.dat", b"")
    assert find_crops([path], Layout.flat).crops == (CropFile(path),)


def test_market1501_files_of_another_form_are_set_apart(tmp_path: Path) -> None:
    path = put(tmp_path / "holiday.jpg", b"")
    findings = find_crops([tmp_path], Layout.market1501)
    assert (findings.crops, findings.misnamed) == ((), (path,))
