"""F3, F4: no label of a CSV or an archive is lost without a word, however the file was written or packed."""

import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from archives import tar_of, zip_of
from command_line import put, run
from exported import items_of, rows_of
from live_server import crop, enroll, search, serve
from service.settings import Settings


def send(client: httpx.Client, archive: bytes, **fields: Any) -> httpx.Response:
    return client.post("/gallery", files={"archive": ("crops", archive)}, data=fields)


@pytest.mark.parametrize(
    ("label_file", "fault"),
    [
        ("path,identity\na.jpg,anna", "unknown column 'identity'"),
        ("path,name\na.jpg,anna", "unknown column 'name'"),
        ("path,identity_id,identity_id\na.jpg,anna,bert", "the column identity_id is there twice"),
        ("path,identity_id\na.jpg,Smith, John", "line 2 has 3 values"),
        ("path,identity_id,camera_id\na.jpg,anna", "line 2 has 2 values"),
        ("path;identity_id\na.jpg;anna", "separated by commas, not by semicolons"),
    ],
)
@pytest.mark.parametrize("way", ["archive", "folder"])
def test_f3_a_label_that_would_be_lost_is_refused(
    shared_client: httpx.Client, tmp_path: Path, way: str, label_file: str, fault: str
) -> None:
    num = len(items_of(shared_client))
    if way == "archive":
        answer = send(shared_client, tar_of({"gallery.csv": label_file.encode(), "a.jpg": crop(1)}))
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_archive")
        said = answer.json()["detail"]
    else:
        put(tmp_path / "gallery.csv", label_file.encode())
        put(tmp_path / "a.jpg", crop(1))
        done = run(shared_client, "import", tmp_path)
        assert done.exit_code == 1
        said = done.stderr
    assert fault in said
    assert len(items_of(shared_client)) == num


def test_f3_case_and_spaces_do_not_matter_and_a_quoted_comma_is_one_name(
    client: httpx.Client, tmp_path: Path
) -> None:
    label_file = 'Path, Identity_ID ,CAMERA_ID\r\na.jpg,"Smith, John", door \r\nb.jpg, anna ,\r\n'
    put(tmp_path / "gallery.csv", b"\xef\xbb\xbf" + label_file.encode())
    for number, name in enumerate("ab"):
        put(tmp_path / f"{name}.jpg", crop(number))
    assert run(client, "import", tmp_path).stdout.startswith("2 enrolled, 0 failed")
    assert [(item["identity_id"], item["camera_id"]) for item in items_of(client)] == [
        ("Smith, John", "door"),
        ("anna", None),
    ]


def unpacked(exported: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(exported)): path.read_bytes() for path in exported.rglob("*") if path.is_file()
    }


def tar_with_top_folder(exported: Path, out: Path) -> Path:
    with tarfile.open(out / "e.tgz", "w:gz") as tar:
        tar.add(exported, arcname="./nested/export")
    return out / "e.tgz"


def zip_of_a_mac(exported: Path, out: Path) -> Path:
    members = {f"export/{name}": data for name, data in unpacked(exported).items()}
    junk = {f"__MACOSX/export/._{Path(name).name}": b"\0\5\x16\7" for name in members}
    return put(out / "mac.zip", zip_of(members | junk | {"export/.DS_Store": b"1"}))


def zip_of_windows(exported: Path, out: Path) -> Path:
    members = {f"export\\{name}".replace("/", "\\"): data for name, data in unpacked(exported).items()}
    return put(out / "windows.zip", zip_of(members | {"export\\Thumbs.db": b"1"}))


def zip_in_capitals(exported: Path, out: Path) -> Path:
    return put(out / "fat.zip", zip_of({name.upper(): data for name, data in unpacked(exported).items()}))


def tar_with_hard_links(exported: Path, out: Path) -> Path:
    """Pack the crops twice, the second time as hard links, and name the links in gallery.csv."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in unpacked(exported).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return put(out / "plain.tar", file.getvalue())


def folder_in_a_folder(exported: Path, out: Path) -> Path:
    shutil.copytree(exported, out / "above" / "export")
    (out / "above" / "export" / "gallery.csv").rename(out / "above" / "export" / "Gallery.CSV")
    put(out / "above" / ".DS_Store", b"1")
    return out / "above"


def tar_by_the_command(exported: Path, out: Path) -> Path:
    subprocess.run(["tar", "czf", out / "e.tar.gz", exported.name], cwd=exported.parent, check=True)
    return out / "e.tar.gz"


REPACKED = [
    tar_with_top_folder,
    zip_of_a_mac,
    zip_of_windows,
    zip_in_capitals,
    tar_with_hard_links,
    folder_in_a_folder,
    tar_by_the_command,
]


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """An export of a gallery with odd names, and the answer of a search in the gallery."""
    folder = tmp_path_factory.mktemp("exported")
    with serve(make_settings(folder / "data")) as client:
        for seed, name in enumerate(("anna", 'Smith, "J"', " spaced ", "Jos\u00e9", "\u738b"), 1):
            times = {"captured_at": f"2026-01-0{seed}T08:00:00Z", "track_id": f"t {seed}"}
            enroll(client, crop(seed), identity_id=name, camera_id=f"c {seed}", **times)
        enroll(client, crop(1), identity_id="another", on_duplicate="store")
        assert run(client, "export", "--out", folder / "export").exit_code == 0
        yield folder / "export", search(client, crop(3), top_k=100)


@pytest.mark.parametrize("repack", REPACKED, ids=lambda repack: repack.__name__)
def test_f4_an_export_that_was_packed_again_is_imported_alike(
    exported: tuple[Path, dict[str, Any]],
    settings: Settings,
    tmp_path: Path,
    repack: Callable[[Path, Path], Path],
) -> None:
    folder, expected = exported
    path = repack(folder, tmp_path)
    with serve(settings) as client:
        done = run(client, "import", path)
        assert done.stdout.startswith("6 enrolled, 0 failed"), done.stderr
        answer = search(client, crop(3), top_k=100)
        assert [(match["identity_id"], match["score"]) for match in answer["matches"]] == [
            (match["identity_id"], match["score"]) for match in expected["matches"]
        ]
        done = run(client, "import", path)
        assert done.stdout.startswith("0 enrolled, 6 there already, 0 failed"), done.stderr
        assert run(client, "export", "--out", tmp_path / "again").exit_code == 0
        assert sorted(map(str, rows_of(tmp_path / "again"))) == sorted(map(str, rows_of(folder)))


def test_f4_two_label_files_side_by_side_are_refused(shared_client: httpx.Client) -> None:
    members = {"a/gallery.csv": b"path\n1.jpg\n", "a/1.jpg": crop(1), "b/gallery.csv": b"path\n"}
    answer = send(shared_client, tar_of(members))
    assert answer.status_code == 422
    assert "a/gallery.csv and b/gallery.csv" in answer.json()["detail"]
