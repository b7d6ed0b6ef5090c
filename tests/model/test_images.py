"""Decoding untrusted bytes: every format and mode becomes upright RGB, and other bytes raise an error."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from live_server import encode, person
from model.data.images import ORIENTATION_TAG, Limits
from service.errors import CropTooSmall, ImageError, ImageTooLarge, UnreadableImage
from service.uploads.requests import decode

LIMITS = Limits(max_upload_bytes=10 << 20, max_pixels=40_000_000, min_side=16)


def pixels(content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image, crop = decode(content, LIMITS)
    assert (image.mode, image.size) == ("RGB", (crop.width, crop.height))
    return np.asarray(image)


def png_claiming(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size, with 100 bytes of pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_each_format_is_decoded_and_named(kind: str) -> None:
    content = encode(person(1), kind)
    image, crop = decode(content, LIMITS)
    assert crop.content_type == f"image/{kind.lower()}"
    assert image.size == (64, 128)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_png_mode_becomes_rgb(mode: str) -> None:
    image = person(1).convert(mode)
    assert np.abs(pixels(encode(image, "PNG")).astype(int) - np.asarray(image.convert("RGB"))).max() <= 1


def test_cmyk_becomes_rgb() -> None:
    red = Image.new("RGB", (32, 64), (220, 20, 30)).convert("CMYK")
    assert np.abs(pixels(encode(red, "JPEG")).astype(int) - [220, 20, 30]).max() < 12


def test_sixteen_bit_grey_keeps_its_upper_bits() -> None:
    grey_HW = np.linspace(0, 65535, 32 * 64, dtype=np.uint16).reshape(64, 32)
    found = pixels(encode(Image.fromarray(grey_HW), "PNG"))
    assert (found[..., 0] == grey_HW >> 8).all()
    assert (found[..., 0] == found[..., 2]).all()


def test_transparent_pixels_are_white() -> None:
    transparent = Image.new("RGBA", (32, 64), (10, 20, 30, 0))
    assert (pixels(encode(transparent, "PNG")) == 255).all()
    assert (pixels(encode(transparent, "WEBP", lossless=True)) == 255).all()


def test_a_transparent_colour_of_a_palette_is_white() -> None:
    palette = Image.new("P", (32, 64), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((0, 0), 0)
    found = pixels(encode(palette, "PNG", transparency=0))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[5, 5].tolist() == [0, 255, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    image = Image.new("RGB", (48, 96), "black")
    image.paste("white", (0, 0, 24, 24))
    stored = {
        1: image,
        2: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: image.transpose(Image.Transpose.ROTATE_180),
        4: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: image.transpose(Image.Transpose.TRANSPOSE),
        6: image.transpose(Image.Transpose.ROTATE_90),
        7: image.transpose(Image.Transpose.TRANSVERSE),
        8: image.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    found = pixels(encode(stored, kind, exif=exif))
    assert found.shape == (96, 48, 3)
    assert found[4, 4].min() > 200
    assert found[90, 40].max() < 50


def test_an_orientation_beside_damaged_exif_is_applied() -> None:
    """Pillow's own `exif_transpose` fails on this image, which is why the decoder has a table of its own."""
    orientation, damaged = (ORIENTATION_TAG, 3, 1, b"\0\6\0\0"), (0x0100, 1, 4, b"\xff\xff\xff\0")
    entries = b"".join(struct.pack(">HHI4s", *entry) for entry in (damaged, orientation))
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\2" + entries + bytes(4)
    content = encode(Image.new("RGB", (48, 96)), "JPEG", exif=exif)
    assert pixels(content).shape == (48, 96, 3)
    with Image.open(BytesIO(content)) as image, pytest.raises(struct.error):
        ImageOps.exif_transpose(image)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_an_image_with_broken_exif_is_decoded() -> None:
    content = encode(person(1), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff")
    assert pixels(content).shape == (128, 64, 3)


def test_an_animation_becomes_its_first_frame() -> None:
    first, second = Image.new("RGB", (32, 64), "red"), Image.new("RGB", (32, 64), "blue")
    for kind in ("PNG", "WEBP"):
        content = encode(first, kind, save_all=True, append_images=[second], lossless=True)
        assert pixels(content)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, I am a text",
        encode(person(1), "GIF"),
        encode(person(1), "TIFF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n",
        encode(person(1), "JPEG")[:-200],
        encode(person(1), "PNG")[:-200],
        encode(person(1), "WEBP")[:-200],
        encode(person(1), "BMP")[:-200],
        encode(person(1), "JPEG")[:20],
        b"\xff\xd8\xff",
        png_claiming(64, 64),
    ],
)
def test_torn_images_and_other_formats_are_unreadable(content: bytes) -> None:
    with pytest.raises(UnreadableImage, match=r"images\[3\]"):
        decode(content, LIMITS, 3)


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (10_000, 4_001), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    with pytest.raises(ImageTooLarge):
        decode(png_claiming(width, height), LIMITS)


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(ImageTooLarge):
        decode(bytes(101), Limits(100, 40_000_000, 16))


@pytest.mark.parametrize("size", [(15, 64), (64, 15), (1, 1)])
def test_a_crop_under_16_pixels_a_side_is_too_small(size: tuple[int, int]) -> None:
    with pytest.raises(CropTooSmall):
        decode(encode(Image.new("RGB", size), "PNG"), LIMITS)
    decode(encode(Image.new("RGB", (16, 16)), "PNG"), LIMITS)


WHOLE = [encode(person(1), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP")]
WHOLE += [encode(person(1).convert("P"), "PNG", transparency=3), encode(person(1).convert("L"), "JPEG")]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_images_are_decoded_or_raise_an_image_error(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 8))):
        near_start = data.draw(st.booleans())
        at = data.draw(st.integers(0, min(len(content) - 1, 80) if near_start else len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    torn = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    try:
        image, _ = decode(bytes(torn), LIMITS)
    except ImageError:
        return
    assert image.mode == "RGB"
