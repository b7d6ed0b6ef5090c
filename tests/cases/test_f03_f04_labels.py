"""F3, F4: no label of a CSV or an archive is lost without a word, however the file was written or packed."""

import csv
import io
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from archives import packed, tar_of
from command_line import put, run
from exported import items_of, rows_of
from live_server import crop, enroll, search, serve
from model.data.folders import NamedFiles
from service.settings import Settings
from training.data.manifests import read_manifest


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


@dataclass(frozen=True)
class Packing:
    """How somebody packs an export again.

    Args:
        kind: folder, zip or tar, the tar plain or compressed.
        top: the folders above the export within the archive.
        is_windows: whether a zip has backslashes, as those of older Windows programs.
        is_upper: whether the names are in capitals, as a FAT file system gives them.
        junk: what the operating system adds.
        num_columns: by how much the columns of gallery.csv are turned.
        newline: what ends a line of gallery.csv.
        mark: what stands before gallery.csv.
        order: shuffles the members.
    """

    kind: str
    top: str
    is_windows: bool
    is_upper: bool
    junk: frozenset[str]
    num_columns: int
    newline: str
    mark: str
    order: random.Random

    def pack(self, exported: Path, out: Path) -> Path:
        """Pack an export and return the path of the archive or folder."""
        members = [
            (self._name(str(path.relative_to(exported))), self._content(path))
            for path in exported.rglob("*")
            if path.is_file()
        ]
        members += [(self.top + name, b"\0\5\x16\7") for name in self.junk]
        self.order.shuffle(members)
        if self.kind == "folder":
            for name, content in members:
                put(out / "folder" / name, content)
            return out / "folder"
        return put(out / f"packed.{self.kind}", packed(self.kind, dict(members)))

    def _name(self, name: str) -> str:
        name = self.top + (name.upper() if self.is_upper else name)
        return name.replace("/", "\\") if self.is_windows and self.kind == "zip" else name

    def _content(self, path: Path) -> bytes:
        if path.name != "gallery.csv":
            return path.read_bytes()
        written = io.StringIO(newline="")
        writer = csv.writer(written, lineterminator=self.newline, quoting=csv.QUOTE_ALL)
        for row in csv.reader(io.StringIO(path.read_text("utf-8"), newline="")):
            turned = self.num_columns % len(row)
            writer.writerow(row[turned:] + row[:turned])
        return (self.mark + written.getvalue()).encode()


PACKINGS = st.builds(
    Packing,
    kind=st.sampled_from(["folder", "zip", "tar", "gz", "bz2"]),
    top=st.sampled_from(["", "export/", "./export/", "holidays 2026/\u00e9xport/"]),
    is_windows=st.booleans(),
    is_upper=st.booleans(),
    junk=st.frozensets(st.sampled_from([".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._gallery.csv"])),
    num_columns=st.integers(0, 7),
    newline=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
    order=st.randoms(use_true_random=False),
)


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


@pytest.fixture(scope="module")
def importer(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]
) -> Iterator[httpx.Client]:
    """A client of a gallery that takes one import after the other, and is emptied between them."""
    with serve(make_settings(tmp_path_factory.mktemp("importer") / "data")) as client:
        yield client


def test_f4_an_export_that_was_packed_again_is_imported_alike(
    exported: tuple[Path, dict[str, Any]], importer: httpx.Client, is_long: bool
) -> None:
    folder, expected = exported

    @hypothesis_settings(max_examples=300 if is_long else 8, deadline=None, phases=[Phase.generate])
    @given(packing=PACKINGS)
    def is_imported_alike(packing: Packing) -> None:
        for item in items_of(importer):
            assert importer.delete(f"/gallery/{item['id']}").is_success
        with tempfile.TemporaryDirectory() as temporary:
            out = Path(temporary)
            path = packing.pack(folder, out)
            done = run(importer, "import", path)
            assert done.stdout.startswith("6 enrolled, 0 failed"), done.stderr
            answer = search(importer, crop(3), top_k=100)
            assert [(match["identity_id"], match["score"]) for match in answer["matches"]] == [
                (match["identity_id"], match["score"]) for match in expected["matches"]
            ]
            done = run(importer, "import", path)
            assert done.stdout.startswith("0 enrolled, 6 there already, 0 failed"), done.stderr
            assert run(importer, "export", "--out", out / "again").exit_code == 0
            assert sorted(map(str, rows_of(out / "again"))) == sorted(map(str, rows_of(folder)))

    is_imported_alike()


def test_f4_training_finds_files_on_a_disc_that_has_changed_the_case_of_their_names(tmp_path: Path) -> None:
    names = [f"crops/{person}{number}.jpg" for person in "abcd" for number in range(2)]
    for seed, name in enumerate(names):
        put(tmp_path / name.upper(), crop(seed))
    rows = [f"{name},{Path(name).name[0]},c{name[-5]}" for name in names]
    put(tmp_path / "GALLERY.CSV", "\n".join(["path,identity_id,camera_id", *rows]).encode())
    dataset = read_manifest(tmp_path / "GALLERY.CSV")
    found = {sample.path for sample in (*dataset.train, *dataset.query, *dataset.gallery)}
    assert found == {tmp_path / name.upper() for name in names}


def test_f4_two_files_whose_names_differ_by_case_alone_are_not_taken_for_each_other(tmp_path: Path) -> None:
    files = NamedFiles(tmp_path)
    for name in ("a.jpg", "A.jpg", "b.JPG"):
        put(tmp_path / name, crop(1))
    assert [files.find(name).name for name in ("a.jpg", "A.jpg", "b.jpg")] == ["a.jpg", "A.jpg", "b.JPG"]
    assert not files.find("a.JPG").exists()


def test_f4_an_export_that_the_program_tar_has_packed_is_imported(
    exported: tuple[Path, dict[str, Any]], client: httpx.Client, tmp_path: Path
) -> None:
    folder, _expected = exported
    subprocess.run(["tar", "czf", tmp_path / "e.tar.gz", folder.name], cwd=folder.parent, check=True)
    assert run(client, "import", tmp_path / "e.tar.gz").stdout.startswith("6 enrolled, 0 failed")


def test_f4_two_label_files_side_by_side_are_refused(shared_client: httpx.Client) -> None:
    members = {"a/gallery.csv": b"path\n1.jpg\n", "a/1.jpg": crop(1), "b/gallery.csv": b"path\n"}
    answer = send(shared_client, tar_of(members))
    assert answer.status_code == 422
    assert "a/gallery.csv and b/gallery.csv" in answer.json()["detail"]
