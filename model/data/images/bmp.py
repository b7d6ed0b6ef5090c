"""Read the header of a BMP."""

import struct

from model.data.images.header import Header, Picture
from model.errors import UnreadableImage

SIGNATURE = b"BM"
OLD_HEADER = 12
RUN_LENGTHS = (1, 2)
"""The values of the field for the compression that mean run lengths, of 8 or 4 bits."""

RUN_LENGTH_BYTES = 4
"""Bytes of a pixel in the two copies of the indices that Pillow's decoder makes, with their growth."""


def read_bmp(data: bytes) -> Picture:
    """Read the header of a BMP; the file is kept as it is.

    Raises:
        UnreadableImage: the header is cut off.
    """
    try:
        (header_bytes,) = struct.unpack_from("<I", data, 14)
        if header_bytes == OLD_HEADER:
            width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
            compression = 0
        else:
            width, height, _, depth, compression = struct.unpack_from("<IiHHI", data, 18)
    except struct.error:
        raise UnreadableImage("the image is torn or damaged") from None
    height = abs(height)
    is_run_length = compression in RUN_LENGTHS
    channels = 1 if depth <= 8 else 3
    bytes_per_pixel = 1 if depth <= 8 else 4
    header = Header(
        format="BMP",
        width=width,
        height=height,
        channels=channels,
        depth=min(depth, 8),
        num_scans=1,
        num_parts=1,
        num_bytes=len(data),
        bytes_per_pixel=bytes_per_pixel,
        working_bytes=(width * depth // 8 + 4) * 2
        + (RUN_LENGTH_BYTES * width * height if is_run_length else 0),
        is_run_length=is_run_length,
    )
    return Picture(header, [data])
