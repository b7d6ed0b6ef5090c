"""Tell the segments of a JPEG apart without decoding them, as libjpeg would read them."""

import re

from model.data.images.header import MAX_TABLE_BYTES, Header, Picture, check_parts
from model.errors import OversizedImage, UnreadableImage

SIGNATURE = b"\xff\xd8\xff"

MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
"""The next marker. Restart markers, and the marker 01, have no meaning outside of libjpeg's own decoding."""

END, START_OF_SCAN, START_OF_IMAGE = 0xD9, 0xDA, 0xD8
FRAMES = (0xC0, 0xC1, 0xC2)
PROGRESSIVE = 0xC2
NO_FRAMES = (0xC4, 0xC8, 0xCC)
"""Markers from C0 to CF that are tables, not frames."""

TABLES = (0xC4, 0xDB)
"""Markers of the tables of Huffman codes and of quantisation."""

APP0, APP1, ADOBE, APP15, COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"

TORN = "the image is torn or damaged"
UNUSUAL = "a JPEG with lossless or arithmetic coding, which few programs read; save the image again"

MAX_EXIF_BYTES = 65_536
COEFFICIENT_BYTES = 2
BLOCK = 8
ALL_BANDS = (1 << BLOCK * BLOCK) - 1

TWICE_BYTES_PER_PIXEL = 12
"""Bytes for each pixel of a JPEG without an end, which is decoded twice to compare the two pictures."""


class _Segments:
    """Collects what the segments of a JPEG say."""

    def __init__(self) -> None:
        self.frame: bytes | None = None
        self.is_progressive = False
        self.components_of_first_scan = 0
        self.num_scans = 0
        self.bands: dict[int, int] = {}
        self.num_parts = 0
        self.table_bytes = 0
        self.exif = b""
        self.xmp = b""
        self.is_whole = False

    def add(self, marker: int, body: bytes) -> bool:
        """Note one segment, and tell whether the decoder needs it for the pixels."""
        if marker == APP1:
            if body.startswith(EXIF) and len(self.exif) < MAX_EXIF_BYTES:
                self.exif = self.exif + body[len(EXIF) :] if self.exif else body
            elif body.startswith(XMP):
                self.xmp = body[len(XMP) :]
        elif 0xC0 <= marker <= 0xCF and marker not in NO_FRAMES:
            if marker not in FRAMES:
                raise UnreadableImage(UNUSUAL)
            if self.frame is not None or len(body) < 6 or len(body) != 6 + 3 * body[5]:
                raise UnreadableImage(TORN)
            self.frame = body
            self.is_progressive = marker == PROGRESSIVE
        elif marker == START_OF_SCAN:
            self._add_scan(body)
        elif marker in TABLES:
            self.table_bytes += len(body)
            if self.table_bytes > MAX_TABLE_BYTES:
                raise OversizedImage(f"its tables have more than {MAX_TABLE_BYTES:,} bytes")
        return not (APP0 < marker <= APP15 and marker != ADOBE) and marker != COMMENT

    def _add_scan(self, body: bytes) -> None:
        self.num_scans += 1
        num = body[0] if body else 0
        if self.num_scans == 1:
            self.components_of_first_scan = num
        if len(body) >= 4 + 2 * num:
            first, last, bits = body[1 + 2 * num : 4 + 2 * num]
            if not bits & 15 and first <= last < BLOCK * BLOCK:
                bands = (1 << last + 1) - (1 << first)
                self.bands |= {name: self.bands.get(name, 0) | bands for name in body[1 : 1 + 2 * num : 2]}

    @property
    def has_all_scans(self) -> bool:
        """Tell whether each coefficient of each component was sent to its last bit."""
        frame = self.frame or b""
        return all(self.bands.get(name) == ALL_BANDS for name in frame[6::3])


def read_jpeg(data: bytes) -> Picture:
    """Read the segments of a JPEG up to the end of its first picture.

    The scans of entropy-coded data are skipped by the marker that follows them. Comments and application
    segments that do not change the pixels are left out, so thumbnails, ICC profiles and the index of further
    pictures cost nothing. Bytes between two segments, which mean nothing, are left out too.

    Raises:
        OversizedImage: there are too many segments.
        UnreadableImage: no scan begins, or the JPEG is of a kind that is not decoded.
    """
    segments = _Segments()
    view, kept = memoryview(data), []
    start, position, is_scan = 0, 2, False
    while found := MARKER.search(data, position):
        segments.num_parts += 1
        check_parts(segments.num_parts)
        if not is_scan and position < found.start():
            kept.append(view[start:position])
            start = found.start()
        marker, position = data[found.end() - 1], found.end()
        if marker == END:
            segments.is_whole = True
            break
        if marker == START_OF_IMAGE:
            continue
        end = position + int.from_bytes(data[position : position + 2])
        if end > len(data):
            position = found.start()
            break
        if not segments.add(marker, data[position + 2 : end]):
            kept.append(view[start : found.start()])
            start = end
        position, is_scan = max(end, position), marker == START_OF_SCAN
    else:
        position = len(data)
    kept.append(view[start:position])
    if not segments.is_whole and not segments.has_all_scans:
        raise UnreadableImage(TORN)
    header = _header(segments, len(data))
    return Picture(header, kept, segments.exif, segments.xmp, segments.is_whole)


def _header(segments: _Segments, num_bytes: int) -> Header:
    frame = segments.frame
    if frame is None or not segments.num_scans:
        raise UnreadableImage(TORN)
    depth, height, width = frame[0], int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    channels = frame[5]
    is_kept_whole = segments.is_progressive or segments.components_of_first_scan < channels
    working_bytes = _coefficient_bytes(frame) if is_kept_whole else 0
    if not segments.is_whole:
        working_bytes += num_bytes + TWICE_BYTES_PER_PIXEL * width * height
    return Header(
        format="JPEG",
        width=width,
        height=height,
        channels=channels,
        depth=depth,
        num_scans=segments.num_scans,
        num_parts=segments.num_parts,
        num_bytes=num_bytes,
        bytes_per_pixel=1 if channels == 1 else 4,
        working_bytes=working_bytes,
    )


def _coefficient_bytes(frame: bytes) -> int:
    """Return the bytes of all coefficients, which libjpeg keeps if a JPEG has several scans."""
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    factors = [(factor >> 4 or 1, factor & 15 or 1) for factor in frame[7::3]]
    widest = max((across for across, _ in factors), default=1)
    highest = max((down for _, down in factors), default=1)
    columns = -(-width // (BLOCK * widest))
    rows = -(-height // (BLOCK * highest))
    blocks = sum(columns * across * rows * down for across, down in factors)
    return blocks * BLOCK * BLOCK * COEFFICIENT_BYTES
