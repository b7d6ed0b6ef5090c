"""The user's own crops: CSV manifests and folders of identities are read, trained on and evaluated."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from live_server import crop
from model.checkpoint import load_checkpoint
from training import embed, evaluate, train
from training.data.datasets import DatasetError, Sample
from training.data.readers import read_dataset
from training.weights.teachers import load_teacher_embeddings

HEADER = "path,identity_id,camera_id,track_id,split"
NAMES = ["anna", "bob", "cléo", "dan", "eve", "fay", "gus", "hal", "ida", "jan"]
Ids = list[tuple[str, int, int, int]]


def write_manifest(folder: Path, *lines: str, encoding: str = "utf-8", newline: str = "\n") -> Path:
    """Write a CSV, and an empty file for each path in it."""
    for line in lines[1:]:
        (folder / line.split(",")[0]).touch()
    path = folder / "crops.csv"
    path.write_bytes(newline.join([*lines, ""]).encode(encoding))
    return path


def write_people(folder: Path, names: list[str], cameras: list[str]) -> None:
    """Write folder/NAME/CAMERA.jpg, with a different picture for each name."""
    for person, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for variant, camera in enumerate(cameras):
            (folder / name / f"{camera}.jpg").write_bytes(crop(person, 1 + variant))


def ids(samples: tuple[Sample, ...]) -> Ids:
    return [(sample.path.name, sample.pid, sample.camid, sample.trackid) for sample in samples]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_manifest_is_read_in_any_column_order_and_with_any_line_ends(
    tmp_path: Path, encoding: str, newline: str
) -> None:
    path = write_manifest(
        tmp_path,
        "path,split, Camera_ID,item_id,identity_id,track_id,captured_at",
        'a.jpg,train,cam-lobby,"7,1",anna,t2,2026-01-01T00:00:00Z',
        'b.jpg,TRAIN,"hall, north",72,bob,t1,',
        "c.jpg,train,cam-lobby,73,žofie,,",
        "",
        "d.jpg,query,cam-lobby,74,李,t1,",
        "e.jpg,gallery,über,75,李,,",
        "f.jpg,gallery,über,76,,,",
        "g.jpg,gallery,über,77,-1,,",
        encoding=encoding,
        newline=newline,
    )
    dataset = read_dataset([str(path)])
    assert ids(dataset.train) == [("a.jpg", 1, 1, 1), ("b.jpg", 2, 2, 2), ("c.jpg", 3, 1, -1)]
    assert ids(dataset.query) == [("d.jpg", 4, 1, 0)]
    assert ids(dataset.gallery) == [("e.jpg", 4, 3, -1), ("f.jpg", 0, 3, -1), ("g.jpg", -1, 3, -1)]
    assert dataset.notes == ()
    assert dataset.name == "crops"


def test_rows_without_a_camera_get_one_for_their_track_or_their_own(tmp_path: Path) -> None:
    path = write_manifest(
        tmp_path,
        HEADER,
        "a.jpg,anna,,t1,train",
        "b.jpg,anna,,t1,train",
        "c.jpg,anna,,,train",
        "d.jpg,anna,3,,train",
    )
    dataset = read_dataset([str(path)])
    first, second, third, fourth = (sample.camid for sample in dataset.train)
    assert first == second
    assert len({first, third, fourth}) == 3
    note = (
        "crops: 3 crops have no camera; each track, or crop, counts as a camera, so the metrics are too high"
    )
    assert dataset.notes == (note,)


def test_people_in_train_and_query_are_noted(tmp_path: Path) -> None:
    path = write_manifest(
        tmp_path, HEADER, "a.jpg,anna,1,,train", "b.jpg,anna,1,,query", "c.jpg,anna,2,,gallery"
    )
    assert "1 identities are in both train and query" in read_dataset([str(path)]).notes[0]


def test_without_a_split_a_fifth_of_the_people_in_two_cameras_is_held_out(
    tmp_path: Path,
) -> None:
    seen_twice = [
        f"{name}-{camera}.jpg,{name},{camera},," for name in [*NAMES, *"uvwxyz"] for camera in (1, 2)
    ]
    lines = [*seen_twice, "alone.jpg,kim,1,,", "nobody.jpg,,1,,", "junk.jpg,-1,2,,"]
    dataset = read_dataset([str(write_manifest(tmp_path, HEADER, *lines))])
    held_out = {sample.pid for sample in dataset.query}
    assert len(held_out) == 3
    assert not held_out & {sample.pid for sample in dataset.train}
    assert len(dataset.train) == 13 * 2 + 1
    assert Counter(sample.pid for sample in dataset.query) == dict.fromkeys(held_out, 2)
    assert Counter(sample.pid for sample in dataset.gallery) == {**dict.fromkeys(held_out, 2), 0: 1, -1: 1}
    assert dataset.notes == ("crops: no crop has a split, so 3 of 17 identities are held out",)
    again = read_dataset([str(write_manifest(tmp_path, HEADER, *reversed(lines)))])
    assert sorted(ids(again.query)) == sorted(ids(dataset.query))


def test_the_held_out_people_do_not_depend_on_the_others(tmp_path: Path) -> None:
    def held_out(names: list[str]) -> set[str]:
        lines = [f"{name}-{camera}.jpg,{name},{camera},," for name in names for camera in (1, 2)]
        dataset = read_dataset([str(write_manifest(tmp_path, HEADER, *lines))])
        return {sample.path.name[:3] for sample in dataset.query}

    trained_on = [name for name in NAMES if name[:3] not in held_out(NAMES)]
    assert held_out([name for name in NAMES if name != trained_on[0]]) == held_out(NAMES)


def test_without_people_in_two_cameras_each_crop_gets_its_own_camera(tmp_path: Path) -> None:
    lines = [f"{name}{i}.jpg,{name},lobby,," for name in NAMES[:5] for i in (1, 2)]
    dataset = read_dataset([str(write_manifest(tmp_path, HEADER, *lines))])
    assert len(dataset.query) == 4
    assert len({sample.camid for sample in dataset.samples}) == 10
    assert "10 crops are of identities that no two cameras saw" in dataset.notes[1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"crops\.csv: the first line is empty; it must name the columns"),
        (["path;identity_id"], "columns are separated by commas, not by semicolons"),
        (["path,identity_id,path"], "the column path is there twice"),
        ([HEADER], "names no crop"),
        (
            [HEADER, "a.jpg,anna,1,,train", "b.jpg,anna"],
            r"crops\.csv: line 3 has 2 values, but the header has 5 columns",
        ),
        (
            [HEADER, "a.jpg,anna,1,,train", 'b.jpg,"anna'],
            r"crops\.csv: line 3 is not CSV: unexpected end of data",
        ),
        ([HEADER, ",anna,1,,train"], "line 2: no path"),
        ([HEADER, "a.jpg,anna,1,,test"], "line 2: the split is 'test', not one of train, query, gallery"),
        ([HEADER, "a.jpg,,1,,train"], "line 2: a crop for train needs an identity_id"),
        ([HEADER, "a.jpg,-1,1,,query"], "line 2: a crop for query needs an identity_id"),
        ([HEADER, "a.jpg,anna,1,,train", "b.jpg,anna,1,,"], r"line 3: no split, though .*line 2 has one"),
        (
            [HEADER, "a.jpg,anna,1,,train", "a.jpg,bob,1,,train"],
            r"line 3: .*a\.jpg is in .*line 2 already",
        ),
        ([HEADER, "a.jpg,anna,1,,", "b.jpg,bob,1,,"], "0 of 2 identities have two crops or more"),
        (
            [HEADER, *(f"{n}{i}.jpg,{n},{i},," for n in "abc" for i in "12")],
            "3 of 3 identities have two crops",
        ),
    ],
)
def test_an_unusable_manifest_is_named_with_the_line(tmp_path: Path, lines: list[str], message: str) -> None:
    path = write_manifest(tmp_path, *lines)
    with pytest.raises(DatasetError, match=message):
        read_dataset([str(path)])


@pytest.mark.parametrize("name", ["gone.jpg", "a" * 999, "."])
def test_files_that_are_not_there_are_named(tmp_path: Path, name: str) -> None:
    path = write_manifest(tmp_path, HEADER, "a.jpg,anna,1,,train")
    path.write_text(f"{path.read_text()}{name},anna,1,,train\n")
    with pytest.raises(DatasetError, match=r"1 of the 2 files in .*crops\.csv are not there, such as"):
        read_dataset([str(path)])


@pytest.mark.parametrize("content", [b"\xff\xfe\0", crop(1), b"path,identity_id\n" + b"x" * 200_000])
def test_a_file_that_is_not_csv_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "crops.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=r"crops\.csv: line \d (is not UTF-8|has more than)"):
        read_dataset([f"csv:{tmp_path / 'crops.csv'}"])


@pytest.mark.parametrize(
    "cameras",
    [
        ["a_c1", "b_c3", "d_c1"],
        ["x_c1s1_000_01", "x_c3s2_000_02", "x_c1s5_000_03"],
        ["cam1_x", "CAM3_x", "cam1_y"],
    ],
)
def test_cameras_of_a_folder_are_read_from_file_names_if_all_have_one(
    tmp_path: Path, cameras: list[str]
) -> None:
    write_people(tmp_path, NAMES[:5], cameras)
    dataset = read_dataset([f"folders:{tmp_path}"])
    assert sorted({sample.camid for sample in dataset.samples}) == [1, 2]
    assert len(dataset.notes) == 1
    (tmp_path / "anna" / "r2_c3po.jpg").touch()
    dataset = read_dataset([f"folders:{tmp_path}"])
    assert len({sample.camid for sample in dataset.samples}) == 16
    assert "16 crops have no camera" in dataset.notes[1]


def test_junk_distractors_and_other_files_are_not_in_the_training_split(tmp_path: Path) -> None:
    write_people(tmp_path, NAMES[:5], ["c1", "c2"])
    for name in (
        "-1/-1_c1s1_1_1.jpg",
        "0000/0000_c2s1_1_1.jpg",
        "0000/other_c1.jpg",
        "anna/notes.txt",
        "anna/.c.jpg",
        ".cache/a_c1.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    dataset = read_dataset([str(tmp_path)])
    assert [sample.path.name for sample in dataset.gallery if sample.pid == -1] == ["-1_c1s1_1_1.jpg"]
    assert [sample.path.name for sample in dataset.gallery if sample.pid == 0] == ["0000_c2s1_1_1.jpg"]
    assert len({sample.pid for sample in dataset.samples if sample.pid > 0}) == 6  # one is called 0000
    assert not any("/." in str(sample.path.relative_to(tmp_path.parent)) for sample in dataset.samples)
    assert dataset.notes[0].endswith("that are skipped: 2 hidden, 1 not images")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of people, and beside it a folder with a manifest of other people."""
    root = tmp_path_factory.mktemp("exported")
    write_people(root / "folder", NAMES, ["c1", "c2"])
    (root / "list").mkdir()
    lines = ["item_id,path,identity_id,camera_id"]
    for person, name in enumerate(NAMES):
        for camera in (1, 2):
            (root / f"{name}{camera}.png").write_bytes(crop(50 + person, 1 + camera))
            lines.append(f"{len(lines)},../{name}{camera}.png,{name},cam-{camera}")
    (root / "list" / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def data(exported: Path) -> list[str]:
    """The --data options of both folders."""
    return [str(exported / "folder"), str(exported / "list")]


@pytest.fixture(scope="module")
def network(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained on both folders."""
    output = tmp_path_factory.mktemp("runs") / "joined"
    train.main("tiny", data, output, init="none", device="cpu")
    return output / "network.safetensors"


def test_a_folder_and_a_manifest_are_trained_on_and_evaluated(
    network: Path, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_checkpoint(network).card.num_identities == 16
    evaluate.main([network], data, device="torch-cpu", as_json=True)
    printed = capsys.readouterr()
    folder, manifest = json.loads(printed.out)
    assert (folder["tested_on"], manifest["tested_on"]) == ("folder", "list")
    assert folder["trained_on"] == manifest["trained_on"] == "folder+list"
    assert 0 < folder["mAP"] <= 100
    assert 0 < manifest["mAP"] <= 100
    assert printed.err.count("no crop has a split, so 2 of 10 identities are held out") == 2


def test_embeddings_of_joined_sets_are_found_again(network: Path, data: list[str], tmp_path: Path) -> None:
    embed.main(network, data, tmp_path / "teacher.npz")
    dataset = read_dataset(data)
    assert load_teacher_embeddings(tmp_path / "teacher.npz", dataset).shape == (len(dataset.train), 64)
    with np.load(tmp_path / "teacher.npz") as arrays:
        assert not any(Path(path).is_absolute() for path in arrays["paths"])


def test_a_missing_split_is_reported_before_training(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, HEADER, "a.jpg,anna,1,,train")
    with pytest.raises(SystemExit, match="train: crops has no query split, which this command needs"):
        train.main("tiny", [str(path)], tmp_path / "run", init="none", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def torn_data(exported: Path, tmp_path: Path) -> list[str]:
    """A folder where one crop of each split is cut short."""
    folder = shutil.copytree(exported / "folder", tmp_path / "torn")
    dataset = read_dataset([str(folder)])
    for sample in (dataset.train[0], dataset.query[0]):
        sample.path.write_bytes(sample.path.read_bytes()[:300])
    return [str(folder)]


def test_a_damaged_crop_ends_training_in_one_line_that_names_it(torn_data: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        train.main("tiny", torn_data, tmp_path / "run", init="none", device="cpu")
    torn = read_dataset(torn_data).train[0].path
    assert str(end.value.code).startswith(f"train: {torn} cannot be read as an image: ")
    assert "\n" not in str(end.value.code)


def test_a_damaged_crop_ends_evaluation_in_one_line_that_names_it(
    torn_data: list[str], network: Path
) -> None:
    torn = read_dataset(torn_data).query[0].path
    with pytest.raises(SystemExit, match=rf"^evaluate: {torn} cannot be read as an image: .*$"):
        evaluate.main([network], torn_data, device="torch-cpu")
