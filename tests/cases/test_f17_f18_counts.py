"""F17, F18, H3, H4: counts are true, a repeat doubles nothing, and label files are bounded."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from archives import tar_of, zip_of
from command_line import put, run
from exported import items_of
from live_server import crop, enroll, wait_for_job


def import_all(client: httpx.Client, archive: bytes, **fields: Any) -> dict[str, Any]:
    answer = client.post("/gallery", files={"archive": ("crops", archive)}, data=fields)
    assert answer.status_code == 202, answer.text
    return wait_for_job(client, answer.headers["location"])


def test_f17_a_crop_that_is_there_already_is_told_with_its_identity(
    client: httpx.Client, tmp_path: Path
) -> None:
    enroll(client, crop(1), identity_id="anna", camera_id="door")
    put(tmp_path / "1.jpg", crop(1))
    done = run(client, "enroll", tmp_path, "--identity-id", "bert", "--camera-id", "door")
    assert done.stdout.startswith("0 enrolled, 1 there already, 0 failed")
    assert "there already as anna" in done.stderr
    assert client.get("/identities/bert").status_code == 404
    done = run(client, "enroll", tmp_path, "--camera-id", "door", "--on-duplicate", "reject")
    assert (done.exit_code, done.stdout[:20]) == (1, "0 enrolled, 1 failed")
    done = run(client, "enroll", tmp_path, "--camera-id", "door", "--on-duplicate", "store")
    assert done.stdout.startswith("1 enrolled, 0 failed")


@pytest.mark.parametrize("fields", [{}, {"camera_id": "door"}, {"identity_id": "anna"}])
def test_f18_an_import_that_is_repeated_doubles_nothing(client: httpx.Client, fields: dict[str, str]) -> None:
    archive = tar_of(
        {f"{seed}.jpg": crop(seed) for seed in range(5)} | {"torn.jpg": crop(9)[:300], "x.txt": b""}
    )
    first, again = (import_all(client, archive, **fields) for _ in range(2))
    counts = ("num_enrolled", "num_existing", "num_failed", "num_skipped", "done")
    assert [first[name] for name in counts] == [5, 0, 1, 1, 6]
    assert [again[name] for name in counts] == [0, 5, 1, 1, 6]
    assert again["skipped"] == {"not images": 1}
    ids = {item["id"]: item["identity_id"] for item in items_of(client)}
    assert {one["item_id"]: one["identity_id"] for one in again["existing"]} == ids
    assert [one["name"] for one in again["existing"]] == [f"{seed}.jpg" for seed in range(5)]


def test_f18_files_of_a_folder_keep_their_names_in_the_job(client: httpx.Client, tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg", "b/holiday \u00e9.JPG"):
        put(tmp_path / name, crop(len(name))[:200])
    assert run(client, "import", tmp_path).exit_code == 1
    (job,) = client.get("/jobs").json()["jobs"]
    assert [error["name"].partition("/")[2] for error in job["errors"]] == [
        "1.jpg",
        "1.jpg",
        "holiday \u00e9.JPG",
    ]


def test_h4_rows_that_name_one_crop_again_and_again_cost_no_rows(client: httpx.Client) -> None:
    rows = "path\n" + "a.jpg\n" * 100_000
    job = import_all(client, zip_of({"gallery.csv": rows.encode(), "a.jpg": crop(1)}))
    assert (job["num_enrolled"], job["num_failed"], job["done"]) == (1, 99_999, 100_000)
    assert len(job["errors"]) == 1_000
    assert "in line 2 already" in job["errors"][0]["detail"]
    assert len(items_of(client)) == 1


@pytest.mark.parametrize(
    ("label_file", "fault"),
    [
        (b"path\n" + b"x\n" * 1_000_000, "more than 200,000 rows"),
        (b"path" + b"," * 100_000 + b"\n" + b"," * 100_000, "line 1 has more than"),
        (b"path\n" + b'"' + b"x\n" * 500_000, r"line \d+ is not CSV"),
    ],
)
def test_h3_a_large_label_file_is_refused_while_it_is_read(
    shared_client: httpx.Client, label_file: bytes, fault: str
) -> None:
    archive = zip_of({"gallery.csv": label_file, "a.jpg": crop(1)})
    answer = shared_client.post("/gallery", files={"archive": ("crops", archive)})
    assert answer.status_code == 422
    assert re.search(fault, answer.json()["detail"]), answer.json()["detail"]
