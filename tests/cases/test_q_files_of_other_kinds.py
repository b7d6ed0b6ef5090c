"""A FIFO, a folder, a device or nonsense in the place of a file of the data folder."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from live_server import crop, enroll, images, search, serve
from service.settings import Settings
from service.store.crops import CropStore
from service.upkeep.check import Report, check
from service.upkeep.opening import opened_to_look


def make_folder(path: Path) -> None:
    path.mkdir()


def link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


OTHERS = (os.mkfifo, make_folder, link_to_zeros, link_to_itself)


def check_gallery(settings: Settings) -> Report:
    with opened_to_look(settings) as store:
        return check(store)


@pytest.mark.parametrize("other", OTHERS)
def test_q_what_stands_in_the_place_of_a_crop_is_no_crop_and_ends_no_request(
    settings: Settings, other: Callable[[Path], None]
) -> None:
    with serve(settings) as client:
        (first,) = enroll(client, crop(1))
        path = CropStore(settings.crops_dir).path(hashlib.sha256(crop(1)).hexdigest())
        path.unlink()
        other(path)
        answer = client.get(f"/gallery/{first['id']}/image")
        assert (answer.status_code, answer.json()["code"]) == (503, "crop_missing")
        assert search(client, crop(1))["num_searched"] == 1
        again = client.post("/gallery", files=images(crop(1)), data={"on_duplicate": "store"})
        assert again.status_code in (201, 503), again.text
        assert enroll(client, crop(2))
        assert client.get("/readyz").status_code == 200
        is_mended = again.status_code == 201
    assert check_gallery(settings).is_clean == is_mended


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def nested(path: Path) -> None:
    path.write_text("[" * 100_000)


def of_text(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sequence": "abc"}))


@pytest.mark.parametrize("spoil", [fifo, nested, of_text])
def test_q_a_header_of_a_snapshot_that_is_none_is_passed_over(
    settings: Settings, spoil: Callable[[Path], None]
) -> None:
    with serve(settings) as client:
        enroll(client, crop(1))
    header = settings.snapshots_dir / "snapshot.json"
    spoil(header)
    assert check_gallery(settings).num_items == 1
    with serve(settings) as client:
        assert search(client, crop(1))["num_searched"] == 1
    assert json.loads(header.read_text())["sequence"] >= 1


def test_q_a_mark_that_is_no_file_is_told_and_nothing_is_written(settings: Settings) -> None:
    with serve(settings) as client:
        enroll(client, crop(1))
        fifo(settings.data_dir / "gallery-id")
        answer = client.post("/gallery", files=images(crop(2)))
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        assert search(client, crop(1))["num_searched"] == 1
