"""Q: archives of nothing, files that are no archive, and tables of other programs are told in a sentence."""

import io
import zipfile
from pathlib import Path

import httpx
import pytest

from archives import packed, tar_of, zip_of
from command_line import put, run
from exported import items_of
from live_server import crop


def send(client: httpx.Client, archive: bytes) -> httpx.Response:
    return client.post("/gallery", files={"archive": ("crops", archive)})


NOTHING = {
    "empty zip": zip_of({}),
    "empty tar": tar_of({}),
    "zips in a zip": zip_of({"day1.zip": b"PK", "day2.zip": b"PK"}),
    "labels alone": zip_of({"gallery.csv": b"path,identity_id\n"}),
    "raw pictures": zip_of({"IMG_1.HEIC": b"1", "IMG_1.DNG": b"1", ".x": b""}),
}


@pytest.mark.parametrize("name", NOTHING)
def test_q_an_import_of_an_archive_without_crops_says_so(
    shared_client: httpx.Client, tmp_path: Path, name: str
) -> None:
    done = run(shared_client, "import", put(tmp_path / "crops", NOTHING[name]))
    assert done.exit_code == 1
    assert "crops has no crops: pack JPEG, PNG, WebP or BMP files into it" in done.stderr


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page or XML"),
        (b"PK\7\x08PK\3\4", "the first part of a split zip"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"Rar!\x1a\x07\1\0", "a RAR archive"),
        (b"\x28\xb5\x2f\xfd", "a file packed by zstd"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"path,identity_id\na.jpg,anna\n", "a label file without its crops"),
    ],
)
@pytest.mark.parametrize("size", [0, 40_000])
def test_q_what_is_no_archive_is_named(
    shared_client: httpx.Client, beginning: bytes, kind: str, size: int
) -> None:
    answer = send(shared_client, beginning + b"\1" * size)
    assert answer.status_code == 422
    assert answer.json()["detail"] == f"the archive is {kind}; send a tar (plain, gz or bz2) or a zip"


@pytest.mark.parametrize("name", ["path/a.jpg", "<1>.jpg", "BM/a.jpg", "RIFF.jpg", "PAR1/a.jpg"])
def test_q_a_tar_may_begin_with_the_name_of_any_member(client: httpx.Client, name: str) -> None:
    assert send(client, tar_of({name: crop(1)})).status_code == 202


@pytest.mark.parametrize("before", [b"", b"PK00"])
def test_q_a_zip_may_begin_with_the_mark_of_one_not_split(client: httpx.Client, before: bytes) -> None:
    assert send(client, before + zip_of({"a.jpg": crop(1)})).status_code == 202


@pytest.mark.parametrize("before", [b"MZ\x90\0", b"#!/bin/sh\nexec unzip $0\n", crop(1)[9:]])
def test_q_the_last_part_of_a_zip_and_one_that_unpacks_itself_are_named(
    shared_client: httpx.Client, before: bytes
) -> None:
    answer = send(shared_client, before + zip_of({"a.jpg": crop(1)}))
    assert answer.status_code == 422
    reason = "a part of a split zip, or a zip that unpacks itself; send one plain zip"
    assert answer.json()["detail"] == f"the archive is {reason}"


def test_q_zips_of_streams_and_with_comments_are_read(client: httpx.Client, tmp_path: Path) -> None:
    class Stream(io.RawIOBase):
        """A pipe: a zip that is written into it has its sizes after each member."""

        written = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override] # zipfile writes bytes
            self.written += data
            return len(data)

    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("anna/a.jpg", crop(1))
        with archive.open("anna/b.jpg", "w", force_zip64=True) as member:
            member.write(crop(2))
        archive.comment = "Grüße".encode()
    put(tmp_path / "a.zip", bytes(stream.written))
    assert run(client, "import", tmp_path / "a.zip").stdout.startswith("2 enrolled, 0 failed")


@pytest.mark.parametrize(
    "name", ["labels.csv", "manifest.CSV", "gallery.csv.txt", "gallery.xlsx", "people.tsv"]
)
@pytest.mark.parametrize("way", ["folder", "tar"])
def test_q_a_table_that_is_not_read_is_named(
    client: httpx.Client, tmp_path: Path, way: str, name: str
) -> None:
    members = {name: b"path,identity_id\na.jpg,anna\n", "a.jpg": crop(1), "notes.txt": b"1"}
    path = tmp_path / "crops"
    if way == "folder":
        for one, content in members.items():
            put(path / one, content)
    else:
        put(path, packed("tar", members))
    done = run(client, "import", path)
    assert done.stdout.startswith("1 enrolled, 0 failed")
    assert "1 tables that are not called gallery.csv, the one table that is read" in done.stderr
    assert "1 not images" in done.stderr


def test_q_a_label_file_alone_is_sent_to_its_folder(shared_client: httpx.Client, tmp_path: Path) -> None:
    put(tmp_path / "gallery.csv", b"path,identity_id\na.jpg,anna\n")
    done = run(shared_client, "import", tmp_path / "gallery.csv")
    assert done.exit_code == 1
    assert "holds no crops: import the folder that has it and the crops" in done.stderr


def test_q_commas_of_empty_cells_lose_nothing(client: httpx.Client, tmp_path: Path) -> None:
    put(tmp_path / "gallery.csv", b"path,identity_id,,\r\na.jpg,anna,,\r\nb.jpg,ben,,,,,\r\n,,,,,,\r\n")
    for number, name in enumerate("ab"):
        put(tmp_path / f"{name}.jpg", crop(number))
    assert run(client, "import", tmp_path).stdout.startswith("2 enrolled, 0 failed")
    assert [item["identity_id"] for item in items_of(client)] == ["anna", "ben"]


@pytest.mark.parametrize(
    ("labels", "advice"),
    [
        ("path,identity_id,camera_id\na.jpg,anna", "write a comma for each value that is empty too"),
        ("path,identity_id\na.jpg,Smith, John", "put a value with a comma into double quotes"),
        ("sep=,\npath,identity_id\na.jpg,anna", "delete this line; the first line must name the columns"),
        ("# by hand\npath,identity_id\na.jpg,anna", "delete this line; the first line must name the columns"),
    ],
)
def test_q_a_label_file_of_another_form_is_refused_with_the_right_advice(
    shared_client: httpx.Client, tmp_path: Path, labels: str, advice: str
) -> None:
    put(tmp_path / "gallery.csv", labels.encode())
    done = run(shared_client, "import", tmp_path)
    assert done.exit_code == 1
    assert advice in done.stderr
