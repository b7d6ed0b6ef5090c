"""Tell the chunks of a PNG apart without decoding them, and keep those that make its pixels."""

import struct
import zlib
from collections.abc import Sequence

from model.data.images.header import Header, Picture, Piece, check_density, check_parts
from model.errors import UnreadableImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES = 13
GREY, COLOURS, PALETTE, GREY_ALPHA, COLOURS_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, COLOURS: 3, PALETTE: 1, GREY_ALPHA: 2, COLOURS_ALPHA: 4}

MAX_METADATA_BYTES = 1024 * 1024
"""Unpacked bytes of a text that may say the orientation; a longer text is ignored."""

MAX_KEY_BYTES = 80
EXIF_IN_TEXT = b"Raw profile type exif"
XMP_IN_TEXT = b"XML:com.adobe.xmp"


def read_png(data: bytes) -> Picture:
    """Read the chunks of a PNG, and keep the size, the palette, the transparency and the pixels.

    The pixels become one chunk, because Pillow needs time for each chunk. Texts, ICC profiles and the later
    frames of an animation are left out, so a text of any length costs nothing.

    Raises:
        OversizedImage: there are too many chunks.
        UnreadableImage: the first chunk is no header, or there are no pixels.
    """
    view, size = memoryview(data), b""
    pixels: list[Piece] = []
    others: list[Piece] = []
    exif = b""
    texts: dict[bytes, bytes] = {}
    num_parts, position = 0, len(SIGNATURE)
    while position + 8 <= len(data):
        num_parts += 1
        check_parts(num_parts)
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        body = view[position + 8 : position + 8 + length]
        if num_parts == 1 and (kind != b"IHDR" or len(body) < HEADER_BYTES):
            break
        if kind == b"IHDR" and not size:
            size = bytes(body)
            others.append(view[position:end])
        elif kind == b"PLTE":
            others.append(view[position:end])
        elif kind == b"tRNS":
            others.append(_transparency(size, bytes(body), data[position:end]))
        elif kind == b"IDAT":
            pixels.append(body)
        elif kind == b"eXIf":
            exif = exif or bytes(body)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            key = bytes(body[:MAX_KEY_BYTES]).partition(b"\0")[0]
            if key in (EXIF_IN_TEXT, XMP_IN_TEXT):
                texts.setdefault(key, kind + bytes(body))
        elif kind == b"IEND":
            break
        position = end
    if not size or not pixels:
        raise UnreadableImage("the image is torn or damaged")
    pieces = [SIGNATURE, *others, *_chunk(b"IDAT", pixels), *_chunk(b"IEND", [])]
    header = _header(size, num_parts, len(data))
    _check_pixels(header, sum(len(piece) for piece in pixels))
    exif = exif or _exif_of_text(_text(texts.get(EXIF_IN_TEXT, b"")))
    xmp = _text(texts.get(XMP_IN_TEXT, b""))
    return Picture(header, pieces, exif, xmp)


def _header(size: bytes, num_parts: int, num_bytes: int) -> Header:
    width, height, depth, colour = struct.unpack_from(">IIBB", size)
    channels = CHANNELS.get(colour, 4)
    pillow_bytes = 4 if channels > 1 else 2 if depth > 8 else 1
    return Header(
        format="PNG",
        width=width,
        height=height,
        channels=channels,
        depth=depth,
        num_scans=1,
        num_parts=num_parts,
        num_bytes=num_bytes,
        bytes_per_pixel=pillow_bytes,
        working_bytes=2 * _row_bytes(width, channels, depth),
    )


def _row_bytes(width: int, channels: int, depth: int) -> int:
    return width * channels * depth // 8 + 2


def _check_pixels(header: Header, num_bytes: int) -> None:
    raw = (header.height + 8) * _row_bytes(header.width, header.channels, header.depth)
    check_density(num_bytes, raw + raw // 100)


def _chunk(kind: bytes, pieces: Sequence[Piece]) -> list[Piece]:
    """Return the pieces of a chunk: its length, its kind, its body and the sum that checks them."""
    checked = zlib.crc32(kind)
    for piece in pieces:
        checked = zlib.crc32(piece, checked)
    length = sum(len(piece) for piece in pieces)
    return [struct.pack(">I", length), kind, *pieces, struct.pack(">I", checked)]


def _transparency(size: bytes, body: bytes, chunk: bytes) -> bytes:
    """Scale the transparent grey of 2 or 4 bits to 8 bits, as Pillow scales the pixels but not this grey."""
    depth, colour = size[8:10] if len(size) >= HEADER_BYTES else (8, COLOURS)
    if colour != GREY or depth not in (2, 4) or len(body) < 2:
        return chunk
    grey = int.from_bytes(body[:2]) & ((1 << depth) - 1)
    return b"".join(_chunk(b"tRNS", [(grey * 255 // ((1 << depth) - 1)).to_bytes(2)]))


def _text(chunk: bytes) -> bytes:
    """Return the text of a chunk, or nothing if the text is damaged or has more than `MAX_METADATA_BYTES`."""
    kind, body = chunk[:4], chunk[4:].partition(b"\0")[2]
    if kind == b"iTXt":
        body, is_packed = body[2:].split(b"\0", 2)[-1], body[:1] == b"\1"
    else:
        body, is_packed = body[1:] if kind == b"zTXt" else body, kind == b"zTXt"
    if is_packed:
        try:
            body = zlib.decompressobj().decompress(body, MAX_METADATA_BYTES + 1)
        except zlib.error:
            return b""
    return body if len(body) <= MAX_METADATA_BYTES else b""


def _exif_of_text(text: bytes) -> bytes:
    """Return the EXIF that older programs wrote as a text in hexadecimal digits."""
    try:
        return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))
    except ValueError:
        return b""
