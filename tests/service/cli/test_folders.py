"""Which files of a folder are crops, and what their names say."""

from pathlib import Path

import pytest

from command_line import put
from model.data.market import parse_market1501_name
from service.cli.folders import find_crops
from service.client import CropFile
from service.uploads.layouts import Layout


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("1501_c6s4_014877_05.jpg.jpg", ("1501", "6")),
        ("00002_c1s1_000451_03.JPG", ("00002", "1")),
        ("0001_c10s12_000001_00.png", ("0001", "10")),
        ("1_c1s1_1_0.jfif", ("1", "1")),
        ("0_c1s1_1_0.jpg", ("0000", "1")),
        ("x0002_c1s1_000451_03.jpg", None),
        ("0002_c1s1_000451_03 (1).jpg", None),
        ("\u0662_c1s1_000451_03.jpg", None),
    ],
)
def test_a_market1501_name_has_any_number_of_digits(name: str, parsed: tuple[str, str] | None) -> None:
    assert parse_market1501_name(name) == parsed


def test_folders_are_read_in_order_each_file_once_and_hidden_ones_not_at_all(tmp_path: Path) -> None:
    names = ["b/2.JPG", "a/1.png", "b/1.webp", "Thumbs.db", ".cache/1.jpg", "b/.1.jpg"]
    for name in names:
        put(tmp_path / name, b"")
    findings = find_crops([tmp_path, tmp_path / "b"], Layout.folders)
    crops = [("a/1.png", "a"), ("b/1.webp", "b"), ("b/2.JPG", "b")]
    assert list(findings.crops) == [CropFile(tmp_path / name, identity_id) for name, identity_id in crops]
    assert findings.num_skipped == {"hidden": 2, "of the system": 1}


def test_a_file_that_is_named_itself_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    path = put(tmp_path / "crop.dat", b"")
    assert find_crops([path], Layout.flat).crops == [CropFile(path)]


def test_market1501_files_of_another_form_are_set_apart(tmp_path: Path) -> None:
    path = put(tmp_path / "holiday.jpg", b"")
    findings = find_crops([tmp_path], Layout.market1501)
    assert (findings.crops, [failure.path for failure in findings.failures]) == ([], [path])
