"""`reid enroll`, `reid search` and `reid verify` with files of a user."""

import json
import re
import sqlite3
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from command_line import Server, put, reid, run
from live_server import crop, serve
from service.client.retries import MAX_ATTEMPTS
from service.settings import Settings


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
    assert "skipped: 1 not images" in done.stderr

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
    assert "skipped: 1 junk boxes by their names" in done.stderr

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


def test_crops_are_verified_against_others_or_an_identity(server: Server, tmp_path: Path) -> None:
    first, again = put(tmp_path / "a.jpg", crop(70)), put(tmp_path / "b.jpg", crop(70, 1))
    reid("enroll", first, "--identity-id", "vera", "--url", server.url)
    for options in (["--against", again, "--against", first], ["--identity", "vera"]):
        done = reid("verify", first, *options, "--url", server.url)
        assert done.returncode == 0
        assert re.match(r"no decision.*: score (0\.9|1\.0)", done.stdout), done.stdout
    refused = reid("verify", first, "--url", server.url)
    assert (refused.returncode, "other_images or identity_id" in refused.stderr) == (1, True)


def test_a_service_that_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    query = put(tmp_path / "a.jpg", crop(1))
    for command in (["enroll", query], ["search", query], ["models", "list"]):
        done = reid(*command, "--url", "http://127.0.0.1:9")
        assert done.returncode == 1
        assert "no service answers at http://127.0.0.1:9; start one with `reid serve`" in done.stderr


def test_a_service_that_starts_for_longer_is_waited_for(settings: Settings, tmp_path: Path) -> None:
    """Its database is held by another until it was asked more often than a request is sent otherwise."""
    path = settings.data_dir / "gallery.sqlite3"
    holder = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    num_asked = 0

    def counting(app: ASGIApp) -> ASGIApp:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal num_asked
            num_asked += scope.get("method") == "POST"
            if num_asked > MAX_ATTEMPTS:
                holder.close()
            await app(scope, receive, send)

        return counted

    put(tmp_path / "1.jpg", crop(1))
    with serve(settings, wait=False, wrap=counting) as client:
        done = run(client, "enroll", tmp_path / "1.jpg")
    assert num_asked > MAX_ATTEMPTS
    assert (done.exit_code, "1 enrolled, 0 failed" in done.stdout) == (0, True), done.stderr
