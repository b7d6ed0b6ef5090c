"""The report and the contact sheet of describe.py, on generated people."""

import json
from pathlib import Path

import pytest
from PIL import Image

from live_server import crop, encode, person
from training import describe
from training.data.datasets import ReidDataset, Sample
from training.data.readers import read_dataset
from training.reports import contact_sheet as sheets
from training.reports.contact_sheet import contact_sheet
from training.reports.description import describe_dataset
from training_command import run_command


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Three people for training and one for testing; one training crop has the pixels of a test crop."""
    crops = {
        "a1.jpg,anna,1,t1,train": crop(1, 1),
        "a2.jpg,anna,2,t2,train": crop(1, 2),
        "a3.jpg,anna,2,t2,train": crop(1, 3),
        "b1.jpg,bob,1,,train": encode(person(2, 1).resize((50, 90))),
        "c1.png,cleo,1,,train": encode(person(3, 1), "PNG"),
        "q1.jpg,dan,1,,query": crop(4, 1),
        "g1.webp,dan,2,,gallery": encode(person(3, 1), "WEBP", lossless=True),
        "g2.jpg,,2,,gallery": crop(5, 1),
        "g3.jpg,-1,2,,gallery": crop(6, 1),
    }
    for line, content in crops.items():
        (tmp_path / line.split(",")[0]).write_bytes(content)
    path = tmp_path / "crops.csv"
    path.write_text("\n".join(["path,identity_id,camera_id,track_id,split", *crops]))
    return path


def test_the_numbers_of_each_split_are_counted(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    describe.main([str(manifest)], with_sheet=False, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["splits"]["train"] == {
        "images": 5,
        "identities": 3,
        "identities_in_two_cameras": 1,
        "cameras": 2,
        "tracks": 2,
        "distractors": 0,
        "junk": 0,
        "images_per_identity": {"min": 1, "median": 1, "max": 3},
        "width": {"min": 50, "median": 64, "max": 64},
        "height": {"min": 90, "median": 128, "max": 128},
    }
    gallery = report["splits"]["gallery"]
    assert [gallery[name] for name in ("images", "identities", "distractors", "junk")] == [3, 1, 1, 1]


def test_the_same_pixels_in_train_and_test_are_found_in_any_container(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    describe.main([str(manifest)], with_sheet=False)
    printed = capsys.readouterr().out
    assert "1 training images are in query or gallery too" in printed
    assert f"{manifest.parent / 'c1.png'} = {manifest.parent / 'g1.webp'}" in printed


def test_the_same_bytes_in_another_shape_are_another_image(tmp_path: Path) -> None:
    Image.new("RGB", (20, 30), "red").save(tmp_path / "a.png")
    Image.new("RGB", (30, 20), "red").save(tmp_path / "b.png")
    train, query = (Sample(tmp_path / name, pid, 1) for pid, name in enumerate(("a.png", "b.png"), start=1))
    report = describe_dataset(ReidDataset("generated", tmp_path, (train,), (query,), ()))
    assert report.in_train_and_test == []


def test_images_that_cannot_be_read_are_named_and_the_status_is_not_zero(
    manifest: Path, tmp_path: Path
) -> None:
    for name in ("a2.jpg", "g2.jpg"):
        (manifest.parent / name).write_bytes(crop(1)[:200])
    (manifest.parent / "more.jpg").write_bytes(crop(7))
    more = manifest.parent / "more.csv"
    more.write_text("path,identity_id,split\nmore.jpg,anna,train\n")
    options = ["--json", "--data", manifest, "--data", more]
    options += ["--sheet", manifest.parent / "new" / "sheet.png"]
    result = run_command("describe", *options, folder=tmp_path)
    assert result.returncode == 1
    for name in ("a2.jpg", "g2.jpg"):
        assert f"\n{manifest.parent / name} cannot be read as an image: " in result.stderr
    assert result.stderr.endswith("describe: 2 images cannot be read\n")
    assert "Traceback" not in result.stderr
    report = json.loads(result.stdout)
    assert len(report["unreadable"]) == 2
    assert report["splits"]["train"]["images"] == 6
    assert (manifest.parent / "new" / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_several_data_sets_are_described_as_one(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = manifest.parent / "other"
    (other / "sub").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg"):
        (other / name).write_bytes(crop(9))
    (other / "manifest.csv").write_text("path,identity_id,split\n1.jpg,anna,train\n2.jpg,anna,gallery\n")
    describe.main([f"csv:{manifest}", str(other)], with_sheet=False, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["name"] == "crops+other"
    assert report["splits"]["train"]["identities"] == 4
    assert report["in_train_and_test"][1] == [str(other / "1.jpg"), str(other / "2.jpg")]
    assert len(report["notes"]) == 1


def test_an_unknown_data_set_ends_in_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^describe: .* is not there; give"):
        describe.main([str(tmp_path / "gone")])


def test_the_contact_sheet_shows_each_crop_in_its_row(manifest: Path) -> None:
    sheet = contact_sheet(read_dataset([str(manifest)]))
    left, width, height = sheets.LABEL_WIDTH, *sheets.CELL
    step = height + sheets.CAPTION_HEIGHT + sheets.GAP
    assert sheet.size == (left + 3 * (width + sheets.GAP), 4 * step)
    third = sheet.crop((left, 2 * step, left + width, 2 * step + height))
    assert third.tobytes() == person(3, 1).tobytes()
    beside = sheet.crop((left + width, 2 * step, sheet.width, 2 * step + height))
    assert beside.getcolors() == [(beside.width * beside.height, (255, 255, 255))]


def test_the_sheet_of_a_large_data_set_is_limited_and_covers_all_of_it(tmp_path: Path) -> None:
    samples = []
    for pid in range(1, 41):
        path = tmp_path / f"{pid}.png"
        Image.new("RGB", (32, 64), (pid, 0, 0)).save(path)
        samples += [Sample(path, pid, camid) for camid in range(20)]
    train, test = tuple(samples[:400]), tuple(samples[400:])
    sheet = contact_sheet(ReidDataset("generated", tmp_path, train, test, test))
    step = sheets.CELL[1] + sheets.CAPTION_HEIGHT + sheets.GAP
    assert sheet.height == sheets.MAX_ROWS * step
    reds = [sheet.getpixel((sheets.LABEL_WIDTH + 32, row * step + 64)) for row in range(sheets.MAX_ROWS)]
    assert reds == [(1 + 40 * row // sheets.MAX_ROWS, 0, 0) for row in range(sheets.MAX_ROWS)]


def test_a_crop_that_is_query_and_gallery_is_drawn_once(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(crop(1))
    sample = Sample(tmp_path / "a.jpg", 1, 1)
    sheet = contact_sheet(ReidDataset("generated", tmp_path, (), (sample,), (sample,)))
    assert sheet.width == sheets.LABEL_WIDTH + sheets.CELL[0] + sheets.GAP
