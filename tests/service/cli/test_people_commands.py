"""`reid people`, `cameras`, `jobs` and `stats` against a running service, as tables and as JSON."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from command_line import put, run
from live_server import crop, enroll, serve
from service.settings import Settings


@pytest.fixture(scope="module")
def client(
    make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    with serve(make_settings(tmp_path_factory.mktemp("people") / "data")) as running:
        yield running


def said(client: httpx.Client, *arguments: str | Path, status: int = 0) -> Any:
    """Run a command with --json, and return what it has printed."""
    done = run(client, *arguments, "--json")
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


def test_people_are_listed_corrected_and_taken_back(client: httpx.Client) -> None:
    at = {"camera_id": "door", "captured_at": "2026-03-01T08:00:00Z"}
    first, second = enroll(client, crop(1), crop(2), identity_id="a/b", **at)
    enroll(client, crop(3), identity_id="bert", camera_id="hall")
    assert [one["id"] for one in said(client, "people", "list")] == ["a/b", "bert"]
    assert [one["id"] for one in said(client, "people", "list", "--exclude-camera-id", "hall")] == ["a/b"]
    assert "--limit shows more" in run(client, "people", "list", "--limit", "1").stderr

    assert said(client, "people", "rename", "a/b", "Anna")["name"] == "Anna"
    shown = said(client, "people", "show", "a/b")
    assert (shown["identity"]["name"], shown["visits"][0]["num_items"]) == ("Anna", 2)
    printed = run(client, "people", "show", "a/b").stdout
    assert "a/b: Anna, 2 items of door" in printed
    assert "2026-03-01T08:00:00Z" in printed

    merged = said(client, "people", "merge", "a/b", "bert")
    assert client.get("/identities/bert").status_code == 404
    assert said(client, "people", "history", "--limit", "1")[0]["operation_id"] == merged["operation_id"]
    assert "is undone" in run(client, "people", "undo", merged["operation_id"]).stdout
    assert client.get("/identities/bert").status_code == 200
    done = run(client, "people", "split", "a/b", second["id"], "--to", "cleo")
    assert "to take it back: reid people undo" in done.stdout
    assert client.get(f"/gallery/{second['id']}").json()["identity_id"] == "cleo"

    kept = run(client, "people", "delete", "cleo")
    assert (kept.exit_code, "say --yes" in kept.stderr) == (1, True)
    assert said(client, "people", "delete", "cleo", "--yes")["deleted"]["id"] == "cleo"
    assert said(client, "people", "erase", "a/b", "--yes")["item_ids"] == [first["id"]]
    refused = run(client, "people", "show", "a/b")
    assert (refused.exit_code, "Traceback" in refused.output) == (1, False)
    assert [one["id"] for one in said(client, "people", "list")] == ["bert"]


def test_cameras_and_stats_are_shown(client: httpx.Client) -> None:
    enroll(client, crop(21), identity_id="vera", camera_id="yard")
    assert [one["id"] for one in said(client, "cameras", "--identity-id", "vera")["cameras"]] == ["yard"]
    assert "yard" in run(client, "cameras").stdout
    stats = said(client, "stats", "--days", "1")
    assert len(stats["days"]) == 1
    printed = run(client, "stats").stdout
    assert f"exact index of {stats['num_items']} items" in printed
    assert "MiB free on the fullest disk" in printed


def test_jobs_are_listed_followed_and_cancelled(client: httpx.Client, tmp_path: Path) -> None:
    put(tmp_path / "crops" / "1.jpg", crop(31))
    counts = said(client, "import", tmp_path / "crops")
    assert (counts["num_enrolled"], counts["num_failed"]) == (1, 0)
    (job,) = said(client, "jobs", "list", "--state", "succeeded", "--limit", "1")["jobs"]
    assert said(client, "jobs", "show", job["id"])["kind"] == "import"
    assert said(client, "jobs", "follow", job["id"])["state"] == "succeeded"
    assert f"import {job['id']} is succeeded" in run(client, "jobs", "show", job["id"]).stdout
    assert run(client, "jobs", "cancel", job["id"]).exit_code == 1
    assert said(client, "models", "cancel") == []


def test_enrolment_takes_a_time_and_a_track_and_refuses_a_wrong_layout(
    client: httpx.Client, tmp_path: Path
) -> None:
    put(tmp_path / "one" / "1.jpg", crop(41))
    told = ["--captured-at", "2026-03-01T08:00:00Z", "--track-id", "7", "--identity-id", "tess"]
    counts = said(client, "enroll", tmp_path / "one", *told)
    assert (counts["num_enrolled"], counts["num_failed"], counts["failures"]) == (1, 0, [])
    (item,) = client.get("/gallery", params={"identity_id": "tess"}).json()["items"]
    assert (item["captured_at"], item["track_id"]) == ("2026-03-01T08:00:00Z", "7")

    for pid in (1, 2):
        put(tmp_path / "market" / f"000{pid}_c1s1_000451_03.jpg", crop(50 + pid))
        for place in range(5):
            put(tmp_path / "people" / f"p{pid}" / f"{place}.jpg", crop(60 + 5 * pid + place))
    put(tmp_path / "people" / "query.jpg", crop(59))
    num_items = client.get("/stats").json()["num_items"]
    for folder, layout, word in (("market", "folders", "market1501"), ("people", "flat", "folders")):
        refused = run(client, "enroll", tmp_path / folder, "--layout", layout)
        assert refused.exit_code == 1
        assert f"Say --layout {word}" in refused.stderr
    assert client.get("/stats").json()["num_items"] == num_items
    forced = said(client, "enroll", tmp_path / "people", "--no-check-layout")
    assert forced["num_enrolled"] == 11
