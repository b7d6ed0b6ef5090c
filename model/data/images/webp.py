"""Tell the chunks of a WebP apart without decoding them."""

import struct

from model.data.images.header import Header, Picture, check_density, check_parts
from model.errors import UnreadableImage

CANVAS, LOSSY, LOSSLESS, ALPHA, FRAME = b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANMF"

BYTES_PER_PIXEL = 4
WORKING_BYTES_PER_PIXEL = 17
"""Bytes of libwebp for a pixel: two canvases, a copy for Pillow, the picture and its transparency."""

PIXELS_PER_GROUP = 16
BITS_PER_GROUP = 20
MAX_GROUPS = 65_536
BYTES_PER_GROUP = 8 * 1024
"""A lossless WebP may have a group of code tables for each 4 x 4 pixels. A group takes at least 20 bits."""

LOSSLESS_BYTES_PER_PIXEL = 5


def is_webp(data: bytes) -> bool:
    """Tell whether bytes begin as a WebP does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP" and data[12:16] in (CANVAS, LOSSY, LOSSLESS)


def read_webp(data: bytes) -> Picture:
    """Read the chunks of a WebP; the file is kept as it is.

    Raises:
        OversizedImage: there are too many chunks.
        UnreadableImage: the first chunk does not give a size.
    """
    width, height = _size(data)
    num_parts, position, may_have_tables = 0, 12, False
    while position + 8 <= len(data):
        num_parts += 1
        check_parts(num_parts)
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind in (LOSSLESS, ALPHA, FRAME):
            may_have_tables = True
            check_density(min(length, len(data)), LOSSLESS_BYTES_PER_PIXEL * width * height)
        position += 8 + length + (length & 1)
    groups = min(MAX_GROUPS, width * height // PIXELS_PER_GROUP + 1, len(data) * 8 // BITS_PER_GROUP)
    tables = groups * BYTES_PER_GROUP if may_have_tables else 0
    header = Header(
        format="WEBP",
        width=width,
        height=height,
        channels=3 if data[12:16] == LOSSY else 4,
        depth=8,
        num_scans=1,
        num_parts=num_parts,
        num_bytes=len(data),
        bytes_per_pixel=BYTES_PER_PIXEL,
        working_bytes=WORKING_BYTES_PER_PIXEL * width * height + tables + len(data),
    )
    return Picture(header, [data])


def _size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == CANVAS and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == LOSSY and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == LOSSLESS and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise UnreadableImage("the image is torn or damaged")
