"""Readers of data sets, on generated people in the layouts of the public ones and in people's own."""

from pathlib import Path

import pytest

from live_server import crop
from training.datasets import DatasetError, ReidDataset, Sample, hold_out, open_crop
from training.readers import read_market1501


def write_crops(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(crop(number))


def labels(samples: tuple[Sample, ...]) -> list[tuple[str, int, int]]:
    return [(sample.path.name, sample.pid, sample.camid) for sample in samples]


def test_market1501_is_read_from_its_names(tmp_path: Path) -> None:
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
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / folder).mkdir()
    (tmp_path / "query" / name).touch()
    with pytest.raises(DatasetError, match=r"bounding_box_train holds no \*\.jpg"):
        read_market1501(tmp_path)
    (tmp_path / "bounding_box_train" / name).touch()
    with pytest.raises(DatasetError, match=rf"{name} has no name such as 0002_c1s1"):
        read_market1501(tmp_path)


def test_a_torn_crop_is_named(tmp_path: Path) -> None:
    path = tmp_path / "0001_c1s1_000001_00.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 torn")
    with pytest.raises(DatasetError, match=r"0001_c1s1_000001_00\.jpg cannot be read"):
        open_crop(path)


def test_held_out_people_are_judged_by_and_never_trained_on() -> None:
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
