"""Readers of the public data sets, on generated people in their layouts, and joined data sets."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from live_server import crop, encode, person
from model.data.images import ORIENTATION_TAG, UNLIMITED
from service.uploads.requests import decode
from training.data.datasets import DatasetError, ReidDataset, Sample, hold_out, join, open_crop
from training.data.readers import (
    READERS,
    find_kind,
    read_cuhk03_np,
    read_dataset,
    read_market1501,
    read_msmt17,
)

MARKET1501 = ("bounding_box_train", "query", "bounding_box_test")


def write_crops(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(crop(number))


def labels(samples: tuple[Sample, ...]) -> list[tuple[str, int, int]]:
    return [(sample.path.name, sample.pid, sample.camid) for sample in samples]


def test_market1501_is_read_from_file_names(tmp_path: Path) -> None:
    junk, distractor, odd = "-1_c6s3_094567_07.jpg", "0000_c3s2_135653_00.jpg", "1501_c6s4_001902_01.jpg.jpg"
    write_crops(tmp_path / "bounding_box_train", "0002_c1s1_000451_03.jpg", junk, distractor)
    write_crops(tmp_path / "query", odd, "Thumbs.db")
    write_crops(tmp_path / "bounding_box_test", junk, distractor, odd)
    dataset = read_market1501(tmp_path)
    assert labels(dataset.train) == [("0002_c1s1_000451_03.jpg", 2, 1)]
    assert labels(dataset.query) == [(odd, 1501, 6)]
    assert labels(dataset.gallery) == [(junk, -1, 6), (distractor, 0, 3), (odd, 1501, 6)]


@pytest.mark.parametrize("name", ["holiday.jpg", "x0002_c1s1_000451_03.jpg"])
def test_a_folder_that_is_not_market1501_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="bounding_box_train is not there"):
        read_market1501(tmp_path)
    for folder in MARKET1501:
        (tmp_path / folder).mkdir()
    (tmp_path / "query" / name).touch()
    with pytest.raises(DatasetError, match="bounding_box_train holds no image"):
        read_market1501(tmp_path)
    (tmp_path / "bounding_box_train" / name).touch()
    with pytest.raises(DatasetError, match=rf"{name} is not named as in this data set, such as 0002_c1s1"):
        read_market1501(tmp_path)


@pytest.mark.parametrize("root", [".", "labeled"])
def test_cuhk03_np_is_read_from_its_folders(tmp_path: Path, root: str) -> None:
    for folder in MARKET1501:
        write_crops(tmp_path / "labeled" / folder, "0001_c1_1.png", "0767_c2_14096.png")
    dataset = read_cuhk03_np(tmp_path / root, "labeled")
    expected = [("0001_c1_1.png", 1, 1), ("0767_c2_14096.png", 767, 2)]
    assert [labels(dataset.split(name)) for name in ("train", "query", "gallery")] == [expected] * 3


def test_only_incomplete_data_sets_have_notes_with_their_numbers(tmp_path: Path) -> None:
    sizes = {"bounding_box_train": (7_365, 767), "query": (1_400, 700), "bounding_box_test": (5_332, 700)}
    for folder, (num_images, num_identities) in sizes.items():
        (tmp_path / folder).mkdir()
        for number in range(num_images):
            (tmp_path / folder / f"{1 + number % num_identities:04d}_c1_{number}.png").touch()
    assert read_cuhk03_np(tmp_path, "detected").notes == ()
    (tmp_path / "query" / "0001_c1_0.png").unlink()
    assert read_cuhk03_np(tmp_path, "detected").notes == (
        "cuhk03-detected query: 1,399 images of 700 identities, where 1,400 of 700 are published",
    )


def test_notes_do_not_count_junk_and_distractors_as_identities(tmp_path: Path) -> None:
    for folder in MARKET1501:
        write_crops(tmp_path / folder, "0002_c1s1_000451_03.jpg")
    write_crops(tmp_path / "bounding_box_test", "-1_c6s3_094567_07.jpg", "0000_c3s2_135653_00.jpg")
    gallery = "market1501 gallery: 3 images of 1 identities, where 19,732 of 750 are published"
    assert read_market1501(tmp_path).notes[2] == gallery


def write_msmt17(root: Path, train: str, test: str) -> None:
    """Write two people for training and two others for testing; both lists number theirs 0 and 1."""
    lists = {
        "train": ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_000_02_0303noon_0015_1.jpg 1"],
        "val": ["0001/0001_001_15_0303noon_0015_1.jpg 1"],
        "query": ["0000/0000_000_04_0303morning_0015_0.jpg 0"],
        "gallery": ["0000/0000_001_05_0303morning_0015_0.jpg 0", "0001/0001_000_14_0303noon_0015_1.jpg 1"],
    }
    for name, lines in lists.items():
        folder = root / (train if name in ("train", "val") else test)
        write_crops(folder, *(line.split()[0] for line in lines))
        (root / f"list_{name}.txt").write_text("".join(f"{line} \n" for line in lines))


@pytest.mark.parametrize(
    ("version", "folders"),
    [("MSMT17_V1", ("train", "test")), ("MSMT17_V2", ("mask_train_v2", "mask_test_v2"))],
)
def test_msmt17_is_read_from_its_lists_with_separate_pids_for_training_and_test(
    tmp_path: Path, version: str, folders: tuple[str, str]
) -> None:
    write_msmt17(tmp_path / version, *folders)
    for root in (tmp_path, tmp_path / version):
        dataset = read_msmt17(root)
        assert [(sample.pid, sample.camid) for sample in dataset.train] == [(1, 1), (2, 2)]
        assert [(sample.pid, sample.camid) for sample in dataset.query] == [(3, 4)]
        assert [(sample.pid, sample.camid) for sample in dataset.gallery] == [(3, 5), (4, 14)]
        assert dataset.train[0].path.parts[-3] == folders[0]
        assert dataset.notes[0].endswith("where 30,248 of 1,041 are published")
    dataset = read_msmt17(tmp_path, with_val=True)
    assert [(sample.pid, sample.camid) for sample in dataset.train] == [(1, 1), (2, 2), (2, 15)]
    assert dataset.query[0].pid == 3
    assert dataset.notes[0].endswith("where 32,621 of 1,041 are published")


@pytest.mark.parametrize(
    ("torn", "message"),
    [
        (None, r"list_query\.txt cannot be read as a list of MSMT17"),
        (b"\xff\xfe", r"list_query\.txt cannot be read as a list of MSMT17"),
        (b"0000/0000_000_04_0303mor", r"list_query\.txt, line 1: '0000/0000_000_04_0303mor' is not"),
        (b"0000/a.jpg 0\n", "line 1: '0000/a.jpg 0' is not"),
        (
            b"0000/0000_000_04_x.jpg 0\n0000/0000_000_04_y.jpg 0",
            r"2 of the 2 files in .* are not there, such as .*_x\.jpg",
        ),
    ],
)
def test_a_damaged_list_is_named_with_its_line(tmp_path: Path, torn: bytes | None, message: str) -> None:
    write_msmt17(tmp_path, "train", "test")
    (tmp_path / "list_query.txt").unlink()
    if torn is not None:
        (tmp_path / "list_query.txt").write_bytes(torn)
    with pytest.raises(DatasetError, match=message):
        read_msmt17(tmp_path)


@pytest.mark.parametrize(
    ("kind", "sign"),
    [
        ("market1501", "bounding_box_train/a.jpg"),
        ("market1501", "Market-1501-v15.09.15/bounding_box_train/a.jpg"),
        ("cuhk03-labeled", "labeled/bounding_box_train/a.png"),
        ("cuhk03-detected", "cuhk03-np/detected/bounding_box_train/a.png"),
        ("cuhk03-detected", "cuhk03_new_protocol_config_detected.mat"),
        ("msmt17", "list_train.txt"),
        ("msmt17", "MSMT17_V2/list_train.txt"),
        ("csv", "manifest.csv"),
        ("folders", "anna/1.JPEG"),
    ],
)
def test_the_kind_of_data_is_recognised(tmp_path: Path, kind: str, sign: str) -> None:
    write_crops(tmp_path, sign)
    assert find_kind(tmp_path) == kind


def test_an_unknown_data_set_ends_in_a_list_of_the_known_ones(tmp_path: Path) -> None:
    write_crops(tmp_path, "a.jpg", "cuhk03-np/labeled/bounding_box_train/a.png")
    assert find_kind(tmp_path / "a.jpg") == "csv"
    assert find_kind(tmp_path / "cuhk03-np" / "labeled") == "cuhk03-labeled"
    write_crops(tmp_path, "cuhk03-np/detected/bounding_box_train/a.png")
    with pytest.raises(
        DatasetError, match=r"holds cuhk03-labeled and cuhk03-detected: say which, as in cuhk03"
    ):
        find_kind(tmp_path)
    with pytest.raises(DatasetError, match=r"no known data set; looked for .*list_train\.txt.*IDENTITY"):
        find_kind(tmp_path / "cuhk03-np" / "labeled" / "bounding_box_train")
    with pytest.raises(
        DatasetError, match=r"market:/x is not there; give \[KIND:\]PATH with a KIND of market1501"
    ):
        read_dataset(["market:/x"])


def test_a_path_that_the_system_refuses_ends_in_a_clear_error() -> None:
    with pytest.raises(DatasetError, match=r"^a+ cannot be read: .*File name too long"):
        read_dataset(["a" * 999])


@pytest.mark.parametrize("kind", READERS)
def test_every_reader_refuses_an_empty_folder(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DatasetError, match=str(tmp_path)):
        read_dataset([f"{kind}:{tmp_path}"])


def test_joined_sets_share_no_identity_camera_or_track_and_keep_junk() -> None:
    def make(name: str) -> ReidDataset:
        train = (Sample(Path(name, "a"), 1, 0, 0), Sample(Path(name, "b"), 3, 2))
        gallery = (
            Sample(Path(name, "c"), 4, 1),
            Sample(Path(name, "d"), -1, 1),
            Sample(Path(name, "e"), 0, 2, 1),
        )
        return ReidDataset(name, Path(name).absolute(), train, gallery[:1], gallery[1:], (f"{name} is odd",))

    joined = join([make("left"), make("right"), make("third")])
    ids = [
        [(s.pid, s.camid, s.trackid) for s in joined.split(name)] for name in ("train", "query", "gallery")
    ]
    assert ids[0] == [(1, 0, 0), (4, 2, -1), (2, 3, 2), (5, 5, -1), (3, 6, 4), (6, 8, -1)]
    assert ids[1] == [(7, 1, -1), (8, 4, -1), (9, 7, -1)]
    assert ids[2] == [(-1, 1, -1), (0, 2, 1), (-1, 4, -1), (0, 5, 3), (-1, 7, -1), (0, 8, 5)]
    assert joined.name == "left+right+third"
    assert joined.notes == ("left is odd", "right is odd", "third is odd")
    assert joined.relative_path(joined.query[1]) == "right/c"
    with pytest.raises(DatasetError, match="is in left and in left: give each set once"):
        join([make("left"), make("left")])


def test_the_same_share_of_each_joined_set_is_held_out() -> None:
    def make(name: str, num_identities: int) -> ReidDataset:
        train = tuple(Sample(Path(name, str(pid)), pid, 1) for pid in range(1, num_identities + 1))
        return ReidDataset(name, Path(name), train, (), (Sample(Path(name, "junk"), -1, 1),))

    joined = join([make("large", 90), make("small", 30)])
    apart, kept = hold_out(joined, 12)
    held_out = [str(sample.path) for sample in apart.gallery]
    assert held_out == [f"large/{pid}" for pid in range(82, 91)] + [f"small/{pid}" for pid in (28, 29, 30)]
    assert len(apart.train) == len(kept) == 108


def test_junk_and_distractors_never_become_identities_to_train_on() -> None:
    for pid in (0, -1):
        with pytest.raises(DatasetError, match="a is junk or a distractor"):
            ReidDataset("generated", Path(), (Sample(Path("a"), pid, 1),), (), ())


def png_of_size(width: int, height: int) -> bytes:
    """Return the first bytes of a PNG of a size in pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b""))


def png_with_a_wrong_length() -> bytes:
    content = bytearray(encode(person(1), "PNG"))
    content[36] //= 2  # the length of the chunk with the pixels
    return bytes(content)


@pytest.mark.parametrize(
    "torn",
    [b"", b"not an image", crop(1)[:-100], png_with_a_wrong_length(), png_of_size(20_000, 20_000)],
    ids=["empty", "text", "cut", "wrong length", "huge"],
)
def test_a_damaged_crop_is_named(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "0001_c1s1_000001_00.jpg"
    path.write_bytes(torn)
    with pytest.raises(DatasetError, match=r"0001_c1s1_000001_00\.jpg cannot be read"):
        open_crop(path)


def rotated_jpeg() -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    return encode(person(1), "JPEG", exif=exif)


def transparent_png() -> bytes:
    image = person(2).convert("RGBA")
    image.putalpha(0)
    return encode(image, "PNG")


@pytest.mark.parametrize("make", [rotated_jpeg, transparent_png, lambda: encode(person(3), "WEBP")])
def test_training_decodes_a_crop_as_the_service_does(tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = tmp_path / "0001_c1s1_000001_00.jpg"
    path.write_bytes(make())
    served, _ = decode(make(), UNLIMITED)
    seen = open_crop(path)
    assert (seen.mode, seen.size, seen.tobytes()) == ("RGB", served.size, served.tobytes())


def test_held_out_people_are_evaluated_and_never_trained_on() -> None:
    places = [(pid, camid, i) for pid in (3, 9, 5, 7) for camid in (1, 2) for i in (0, 1)]
    train = tuple(Sample(Path(f"{pid}-{camid}-{i}"), pid, camid) for pid, camid, i in places)
    dataset = ReidDataset("generated", Path(), train, (), ())
    apart, kept = hold_out(dataset, 2)
    assert {sample.pid for sample in apart.train} == {3, 5}
    assert [train[i] for i in kept] == list(apart.train)
    assert {sample.pid for sample in apart.gallery} == {7, 9}
    assert len(apart.gallery) == 8
    assert {(sample.pid, sample.camid) for sample in apart.query} == {(7, 1), (7, 2), (9, 1), (9, 2)}
    assert len(apart.query) == 4
    assert hold_out(dataset, 0)[0].train == train
    with pytest.raises(DatasetError, match="4 identities cannot be held out of 4"):
        hold_out(dataset, 4)
