"""H1: a picture that would cost much processor time is refused before it is decoded."""

from collections.abc import Callable

import pytest

from hostile_pictures import (
    arithmetic_jpeg,
    bmp_of_runs,
    jpeg_of_frames,
    jpeg_of_junk,
    jpeg_of_quantisation,
    jpeg_of_scans,
    jpeg_of_tables,
    png_of_chunks,
    png_of_code_tables,
    png_of_frames,
    webp_claiming,
    webp_of_groups,
)
from model.data.images import STORED, Header, Limits, decode, read_header
from model.data.images.jpeg import read_jpeg
from model.errors import ImageError, OversizedImage, UnreadableImage
from pictures import FORMS

LIMITS = Limits(max_upload_bytes=10 << 20, max_pixels=4_000_000, min_side=16)

REFUSED: dict[str, tuple[Callable[[], bytes], type[ImageError], str]] = {
    "5,200 scans": (
        lambda: jpeg_of_scans(2000, 2000, 5_200),
        OversizedImage,
        "5,200 scans are more than 100",
    ),
    "101 scans": (lambda: jpeg_of_scans(64, 128, 101), OversizedImage, "101 scans are more than 100"),
    "scans beyond the segments": (lambda: jpeg_of_scans(64, 64, 20_000), OversizedImage, "segments"),
    "tables of codes": (lambda: jpeg_of_tables(20_000), OversizedImage, "10,000 segments"),
    "many tables at once": (lambda: jpeg_of_quantisation(5_000), OversizedImage, "its tables"),
    "two frames": (lambda: jpeg_of_frames(2), UnreadableImage, "torn"),
    "arithmetic coding": (arithmetic_jpeg, UnreadableImage, "arithmetic coding"),
    "chunks": (lambda: png_of_chunks(20_000), OversizedImage, "10,000 segments or chunks"),
    "frames": (lambda: png_of_frames(6_000), OversizedImage, "10,000 segments or chunks"),
    "packed tables": (lambda: png_of_code_tables(20_000), OversizedImage, "more than its pixels can take"),
    "canvas": (lambda: webp_claiming(16_000, 16_000), OversizedImage, "16000 x 16000"),
    "run lengths": (lambda: bmp_of_runs(64, 128, 600_000), OversizedImage, "run lengths"),
    "long lines": (lambda: bmp_of_runs(2000, 2000, 10), OversizedImage, "run lengths"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_costly_picture_is_refused_in_a_sentence(name: str) -> None:
    make, error, sentence = REFUSED[name]
    for read in (read_header, decode):
        with pytest.raises(error, match=sentence):
            read(make(), LIMITS)


def test_stored_pictures_of_many_scans_are_refused_too() -> None:
    with pytest.raises(OversizedImage, match="would take too long"):
        read_header(jpeg_of_scans(6320, 6320, 11), STORED)
    assert read_header(jpeg_of_scans(6320, 6320, 10), STORED).num_scans == 10


@pytest.mark.parametrize("junk", [b"\xff", b"\0", b"ab"])
def test_junk_between_segments_is_not_given_to_pillow(junk: bytes) -> None:
    expected, _ = decode(FORMS["plain.jpg"](), LIMITS)
    picture = read_jpeg(jpeg_of_junk(junk * 1_000_000))
    assert sum(len(piece) for piece in picture.pieces) < 10_000
    image, _ = decode(jpeg_of_junk(junk * 1_000_000), LIMITS)
    assert image.tobytes() == expected.tobytes()


def test_a_picture_of_100_scans_is_taken() -> None:
    image, _ = decode(jpeg_of_scans(64, 128, 100), LIMITS)
    assert image.size == (64, 128)


def test_the_scans_of_pictures_by_pillow_are_counted() -> None:
    counts = {name: read_header(FORMS[name](), LIMITS).num_scans for name in FORMS}
    assert counts["progressive.jpg"] > 5
    assert {counts[name] for name in FORMS if "progressive" not in name} == {1}


def test_an_animation_of_many_frames_costs_its_first_one() -> None:
    image, _ = decode(png_of_frames(1_000), LIMITS)
    assert image.size == (64, 128)


def test_a_lossless_webp_says_how_much_its_tables_take() -> None:
    tables = read_header(webp_of_groups(256, 256), LIMITS)
    assert tables.working_bytes > 4096 * 8 * 1024
    assert isinstance(tables, Header)
