"""What the header of an image says, and what the image would cost: processor time and memory.

A picture is judged before Pillow sees a byte of it. Processor time is bounded by the number of pixels, by the
number of times that each pixel is visited (the scans of a JPEG), and by the number of parts of the file.
Everything else in the file, such as text, ICC profiles, thumbnails and later pictures, is never decoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.errors import OversizedImage, UndersizedImage, UnreadableImage

Piece = bytes | memoryview

MAX_SCANS = 100
"""Scans of a JPEG. A progressive JPEG of any camera or program has about 10."""

MAX_PIXEL_SCANS = 400_000_000
"""Pixels x scans of a JPEG: 4 million pixels at the most scans, or 40 million pixels at 10 scans."""

MAX_PARTS = 10_000
"""Segments of a JPEG, or chunks of a PNG or WebP. libpng writes a chunk for each 8 KiB of pixels."""

MAX_TABLE_BYTES = 262_144
"""Bytes of the tables of a JPEG, which Pillow reads in Python. A progressive JPEG has some 3,000."""

MAX_RLE_PIXELS = 2_000_000
MAX_RLE_BYTES = 1_000_000
"""Most pixels and bytes of a BMP with run lengths, which Pillow decodes in Python, byte by byte."""

SPARE_BYTES = 65_536
"""Bytes of pixels that a PNG or a lossless WebP may have beyond the most that its pixels can take."""

STRIP_PIXELS = 65_536
"""Pixels that are converted to RGB at a time."""

STRIP_BYTES_PER_PIXEL = 24
"""Bytes that a conversion holds for each pixel of a strip: six copies of 4 bytes at most."""

RGB_BYTES = 4
"""Bytes of a pixel in Pillow's RGB, as in each of its modes with several channels."""

ROW_BYTES = 8
"""Bytes of Pillow's pointer to a row."""

FIXED_BYTES = 1 << 20
"""Tables, windows and buffers of the decoders, which do not grow with the image."""


@dataclass(frozen=True)
class Limits:
    """The sizes of images that `decode` accepts.

    Args:
        max_upload_bytes: most bytes of an encoded image.
        max_pixels: most pixels, width x height, by the header.
        min_side: fewest pixels of the width and of the height.
    """

    max_upload_bytes: int
    max_pixels: int
    min_side: int


UNLIMITED = Limits(max_upload_bytes=1 << 62, max_pixels=1 << 62, min_side=1)
"""For images whose size is known to be harmless. The bound on scans and parts holds for them too."""

STORED = Limits(max_upload_bytes=1 << 62, max_pixels=40_000_000, min_side=1)
"""For stored crops. They were checked when they were stored, and the limits may be stricter today."""


@dataclass(frozen=True)
class Header:
    """What is known of an image before it is decoded.

    Args:
        format: JPEG, PNG, WEBP or BMP; a JPEG with further pictures (MPO) is a JPEG.
        width: in pixels, before the image is turned upright.
        height: in pixels, before the image is turned upright.
        channels: samples of a pixel; 1 for a palette.
        depth: bits of a sample, or of an index of a palette.
        num_scans: how often the decoder visits each pixel; 1 for all but some JPEGs.
        num_parts: segments of a JPEG, or chunks of a PNG or WebP.
        num_bytes: of the encoded image.
        bytes_per_pixel: of the image as Pillow decodes it.
        working_bytes: that the decoder holds beside the encoded and the decoded image.
        is_run_length: whether the image is a BMP with run lengths.
    """

    format: str
    width: int
    height: int
    channels: int
    depth: int
    num_scans: int
    num_parts: int
    num_bytes: int
    bytes_per_pixel: int
    working_bytes: int
    is_run_length: bool = False

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height


@dataclass(frozen=True)
class Picture:
    """An image whose parts were told apart, but not decoded.

    Args:
        header: what the image is.
        pieces: the file without the parts that do not change the pixels.
        exif: the EXIF, or empty.
        xmp: the XMP, or empty.
        is_whole: whether the end of the image is there.
    """

    header: Header
    pieces: Sequence[Piece]
    exif: bytes = b""
    xmp: bytes = b""
    is_whole: bool = True


def check_parts(num_parts: int) -> None:
    """Check the number of segments or chunks, while they are counted.

    Raises:
        OversizedImage: there are more than `MAX_PARTS`.
    """
    if num_parts > MAX_PARTS:
        raise OversizedImage(f"more than {MAX_PARTS:,} segments or chunks; save the image again")


def check_density(num_bytes: int, most: int) -> None:
    """Check that packed pixels have no more bytes than the pixels themselves, which no program writes.

    The unpackers of zlib and libwebp need much longer for tables of codes than for pixels, and a file can
    consist of tables.

    Raises:
        OversizedImage: there are more than `most` bytes and `SPARE_BYTES`.
    """
    if num_bytes > most + SPARE_BYTES:
        raise OversizedImage(f"{num_bytes:,} bytes are more than its pixels can take; save the image again")


def check_cost(header: Header, limits: Limits) -> None:
    """Check that an image is neither too large nor too costly to decode.

    Raises:
        OversizedImage: the image has too many pixels, or would take too long.
        UndersizedImage: the width or the height has fewer pixels than the limit.
        UnreadableImage: the image has no pixels.
    """
    size = f"{header.width} x {header.height}"
    if min(header.width, header.height) < 1:
        raise UnreadableImage("the image is torn or damaged")
    if header.pixels > limits.max_pixels:
        raise OversizedImage(f"{size} is more than {limits.max_pixels:,} pixels")
    if min(header.width, header.height) < limits.min_side:
        raise UndersizedImage(f"{size} has fewer than {limits.min_side} pixels a side")
    if header.num_scans > MAX_SCANS:
        raise OversizedImage(f"{header.num_scans:,} scans are more than {MAX_SCANS}; save the image again")
    if header.pixels * header.num_scans > MAX_PIXEL_SCANS:
        raise OversizedImage(
            f"{size} in {header.num_scans} scans would take too long; save the image again as a baseline JPEG"
        )
    if header.is_run_length and (header.pixels > MAX_RLE_PIXELS or header.num_bytes > MAX_RLE_BYTES):
        raise OversizedImage(
            f"a BMP with run lengths may have {MAX_RLE_PIXELS:,} pixels and {MAX_RLE_BYTES:,} bytes; "
            "save the image again as a PNG"
        )


def decoded_bytes(header: Header) -> int:
    """Return the most bytes that `decode` holds at once for an image, beside the bytes that it is given.

    The parts that are needed are copied. The image is decoded in its own mode, then converted to RGB strip by
    strip, then turned upright. A third of what the decoder held is counted as not yet given back.
    """
    decoding = header.working_bytes + header.bytes_per_pixel * header.pixels
    converting = (header.bytes_per_pixel + RGB_BYTES) * header.pixels + header.working_bytes // 3
    turning = 2 * RGB_BYTES * header.pixels
    strip = STRIP_BYTES_PER_PIXEL * max(min(STRIP_PIXELS, header.pixels), header.width)
    rows = 2 * ROW_BYTES * max(header.width, header.height)
    return header.num_bytes + max(decoding, converting, turning) + strip + rows + FIXED_BYTES
