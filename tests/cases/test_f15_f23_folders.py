"""F6, F15, F16, F23: links, unreadable folders, names that are not UTF-8, and files of systems in folders."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from command_line import put, run
from live_server import crop
from model.data.folders import HIDDEN, LINK, OTHER, SYSTEM, walk_folder
from service.cli.folders import find_crops
from service.uploads.layouts import Layout
from training.data.datasets import DatasetError
from training.data.readers import read_dataset

SYSTEM_FILES = [
    "._0001_c1s1_000101_00.jpg",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "Icon\r",
    "@eaDir/1.jpg",
    "#recycle/1.jpg",
    "$RECYCLE.BIN/1.jpg",
    "__MACOSX/1.jpg",
    "lost+found/1.jpg",
    ".snapshot/1.jpg",
]


def test_f15_links_to_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    put(tmp_path / "store" / "anna" / "1.jpg", crop(1))
    put(tmp_path / "store" / "bert" / "1.jpg", crop(2))
    (tmp_path / "gallery").mkdir()
    for name in ("anna", "bert"):
        (tmp_path / "gallery" / name).symlink_to(tmp_path / "store" / name)
    (tmp_path / "store" / "anna" / "up").symlink_to(tmp_path / "gallery")
    found = find_crops([tmp_path / "gallery"], Layout.folders)
    assert [(crop.path.name, crop.identity_id) for crop in found.crops] == [
        ("1.jpg", "anna"),
        ("1.jpg", "bert"),
    ]
    assert found.num_skipped == {LINK: 1}


def test_f15_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "notes").symlink_to(tmp_path / "gone")
    walk = walk_folder(tmp_path)
    assert [(path.name, "No such file" in reason) for path, reason in walk.failures] == [("1.jpg", True)]
    assert walk.num_skipped == {OTHER: 1}


@pytest.mark.parametrize("command", ["enroll", "import"])
def test_f15_nothing_found_is_a_failure(shared_client: httpx.Client, tmp_path: Path, command: str) -> None:
    put(tmp_path / "notes.txt", b"1")
    done = run(shared_client, command, tmp_path)
    assert (done.exit_code, "0 crops found" in done.stderr) == (1, True)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up the rights of root, whom no mode of a folder stops."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_f16_a_folder_that_cannot_be_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        put(root / "person-1" / "1.jpg", crop(1))
        (root / "person-3").mkdir(mode=0)
        with as_nobody():
            found = find_crops([root], Layout.folders)
            with pytest.raises(DatasetError, match="person-3: the folder cannot be read: Permission denied"):
                read_dataset([f"folders:{root}"])
    assert [crop.identity_id for crop in found.crops] == ["person-1"]
    assert [failure.path.name for failure in found.failures] == ["person-3"]


def test_f6_names_that_are_not_utf_8_are_refused_in_a_sentence(
    shared_client: httpx.Client, tmp_path: Path
) -> None:
    for name in (b"M\xfcller", b"M\xf6ller"):
        folder = os.fsencode(tmp_path) + b"/" + name
        os.mkdir(folder)
        Path(os.fsdecode(folder), "1.jpg").write_bytes(crop(1))
    for command in ("enroll", "import"):
        done = run(shared_client, command, tmp_path, "--layout", "folders")
        assert done.exit_code == 1
        assert done.stdout.startswith("0 enrolled, 2 failed")
        assert "M\\xfcller/1.jpg: its path is not UTF-8" in done.stderr.replace("\n", "")


def test_f22_any_number_of_digits_names_a_person_and_a_camera(tmp_path: Path) -> None:
    names = ("0001_c10s12_000101_00.jpg", "1_c1s1_000102_00.JPG", "01501_c2s1_000103_00.jfif")
    for name in names:
        put(tmp_path / "gallery" / name, crop(1))
        for folder in ("bounding_box_train", "query", "bounding_box_test"):
            put(tmp_path / "data" / folder / name, crop(1))
    found = find_crops([tmp_path / "gallery"], Layout.market1501)
    right = {("0001", "10"), ("1", "1"), ("01501", "2")}
    assert {(crop.identity_id, crop.camera_id) for crop in found.crops} == right
    dataset = read_dataset([f"market1501:{tmp_path / 'data'}"])
    assert sorted((sample.pid, sample.camid) for sample in dataset.query) == [(1, 1), (1, 10), (1501, 2)]


@pytest.mark.parametrize("name", SYSTEM_FILES)
def test_f23_files_of_systems_are_skipped_and_counted(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, b"1")
    put(tmp_path / "0001_c1s1_000101_00.jpg", crop(1))
    found = find_crops([tmp_path], Layout.market1501)
    assert [crop.identity_id for crop in found.crops] == ["0001"]
    assert found.num_skipped in ({HIDDEN: 1}, {SYSTEM: 1})


def test_f23_a_data_set_of_market1501_may_hold_files_of_systems(tmp_path: Path) -> None:
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        for name in (
            "0001_c1s1_000101_00.jpg",
            "1_c10s12_000101_00.JPG",
            "0002_c2s1_000101_00.png",
            *SYSTEM_FILES,
        ):
            put(tmp_path / folder / name, b"1")
    dataset = read_dataset([f"market1501:{tmp_path}"])
    assert [(sample.pid, sample.camid) for sample in dataset.query] == [(1, 1), (2, 2), (1, 10)]
