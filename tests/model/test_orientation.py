"""The orientation is what Pillow makes of the whole EXIF, although Pillow is given one field of it."""

import struct
import warnings

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from model.data.images import ORIENTATION_TAG
from model.data.images.orientation import turn_upright
from pictures import XMP, exif_of

PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)

OTHERS = st.sampled_from(
    [(0x0100, 4, 1, 5), (0x010F, 2, 4, b"abc\0"), (0x0113, 3, 1, 7), (0x0131, 2, 1, b"")]
)
"""Sound fields. Beside a damaged one `exif_transpose` fails, and the decoder still turns the image."""

ORIENTATIONS = st.tuples(
    st.just(ORIENTATION_TAG), st.sampled_from([1, 2, 3, 4, 6, 7, 8, 9, 11]), st.just(1), st.integers(0, 9)
)


def tiff(order: str, fields: list[tuple[int, int, int, object]]) -> bytes:
    """Return an EXIF of these fields, whose values are numbers of 1, 2 or 4 bytes, or raw bytes."""
    sign = b"II*\0" if order == "<" else b"MM\0*"
    entries = b""
    for tag, kind, count, value in fields:
        form = {3: "H", 4: "I", 8: "h", 9: "i", 11: "f"}.get(kind, "B")
        raw = value[:4] if isinstance(value, bytes) else struct.pack(order + form, value)
        entries += struct.pack(order + "HHI", tag, kind, count) + raw.ljust(4, b"\0")
    return b"Exif\0\0" + sign + struct.pack(order + "IH", 8, len(fields)) + entries + bytes(4)


def by_pillow(exif: bytes, xmp: bytes) -> bytes:
    """Return the pixels as Pillow turns them by the whole EXIF and XMP."""
    image = Image.fromarray(PIXELS)
    image.info["exif"] = exif
    image.info["xmp"] = xmp
    return ImageOps.exif_transpose(image).tobytes()


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from("<>"),
    st.lists(OTHERS, max_size=3),
    st.lists(ORIENTATIONS, max_size=1),
    st.lists(OTHERS, max_size=2),
    st.sampled_from([b"", XMP]),
)
def test_an_image_is_turned_as_pillow_turns_it(
    order: str,
    before: list[tuple[int, int, int, object]],
    orientation: list[tuple[int, int, int, object]],
    after: list[tuple[int, int, int, object]],
    xmp: bytes,
) -> None:
    exif = tiff(order, [*before, *orientation, *after])
    image = Image.fromarray(PIXELS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = by_pillow(exif, xmp)
    turn_upright(image, exif, xmp)
    assert image.tobytes() == expected
    assert not image.info


def test_a_large_exif_is_read_up_to_its_orientation() -> None:
    image = Image.fromarray(PIXELS)
    turn_upright(image, exif_of(6).tobytes() + bytes(1_000_000), b"")
    assert image.size == (2, 3)
