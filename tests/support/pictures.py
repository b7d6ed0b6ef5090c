"""Pictures of every form that people bring, made by code: by Pillow, or from bytes where Pillow cannot."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from live_server import encode, person

ORIENTATION_TAG = 0x0112
MEBIBYTE = 1024 * 1024
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Pixels = NDArray[np.uint8]


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(
    width: int, height: int, depth: int, colour: int, rows: bytes, *before: bytes, interlaced: bool = False
) -> bytes:
    """Return a PNG from its raw rows, each with its filter byte; `before` are chunks ahead of the pixels."""
    size = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    pixels = chunk(b"IDAT", zlib.compress(rows, 9))
    return PNG_SIGNATURE + chunk(b"IHDR", size) + b"".join(before) + pixels + chunk(b"IEND", b"")


def rows_of(samples: NDArray[np.generic]) -> bytes:
    """Return rows without a filter, each after its filter byte, in the byte order of PNG."""
    height = samples.shape[0]
    raw = samples.astype(">u2" if samples.dtype.itemsize == 2 else "u1").reshape(height, -1).view(np.uint8)
    return np.concatenate([np.zeros((height, 1), np.uint8), raw], axis=1).tobytes()


def after_header(png: bytes, *chunks: bytes) -> bytes:
    """Return a PNG with further chunks behind its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def segment(marker: int, body: bytes) -> bytes:
    """Return a segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def after_start(jpeg: bytes, *segments: bytes) -> bytes:
    """Return a JPEG with further segments behind its first marker."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def exif_of(orientation: int) -> Image.Exif:
    """Return an EXIF that has an orientation."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return exif


def deep_colours() -> NDArray[np.uint16]:
    """Return 16-bit RGB pixels (128, 64, 3) whose lower 8 bits are not 0."""
    return np.asarray(person(1)).astype(np.uint16) * 256 + 77


def interlaced_png() -> bytes:
    """Return a PNG whose pixels come in the seven passes of Adam7."""
    pixels = np.asarray(person(1))
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    rows = b"".join(rows_of(pixels[top::down, left::across]) for top, left, down, across in passes)
    return png_of(64, 128, 8, 2, rows, interlaced=True)


def grey_png(depth: int, transparent: int | None = None) -> bytes:
    """Return a PNG in grey of 1, 2, 4, 8 or 16 bits, perhaps with one transparent grey."""
    greys = np.asarray(person(1).convert("L"))
    trns = [] if transparent is None else [chunk(b"tRNS", struct.pack(">H", transparent))]
    if depth == 16:
        return png_of(64, 128, 16, 0, rows_of(greys.astype(np.uint16) * 256 + 99), *trns)
    levels = (greys >> 8 - depth).astype(np.uint8)
    bits = np.unpackbits(levels[..., None], axis=2)[..., 8 - depth :]
    return png_of(64, 128, depth, 0, rows_of(np.packbits(bits.reshape(128, -1), axis=1)), *trns)


def run_length_bmp(width: int = 64, height: int = 128, runs: bytes = b"") -> bytes:
    """Return a BMP of 8 bits in run lengths; without runs of its own, 8 rows of each of 16 greys."""
    if not runs:
        runs = b"".join(bytes([width, row // 8 * 16]) + b"\0\0" for row in range(height)) + b"\0\1"
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 2835, 2835, 256, 0)
    offset = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset) + info + palette + runs


def top_down_bmp() -> bytes:
    """Return a BMP whose first row is the top one."""
    whole = bytearray(encode(person(1), "BMP"))
    rows = np.frombuffer(whole[54:], np.uint8).reshape(128, 64 * 3)[::-1]
    whole[22:26] = struct.pack("<i", -128)
    return bytes(whole[:54]) + rows.tobytes()


def bmp_of_32_bits() -> bytes:
    """Return a BMP with a fourth byte in each pixel."""
    bgrx = np.dstack([np.asarray(person(1))[::-1, :, ::-1], np.zeros((128, 64), np.uint8)])
    info = struct.pack("<IiiHHIIiiII", 40, 64, 128, 1, 32, 0, bgrx.size, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + bgrx.size, 0, 0, 54) + info + bgrx.tobytes()


def phone_jpeg() -> bytes:
    """Return a JPEG with a second picture behind it, as phones write it (MPO)."""
    return encode(person(1), "MPO", save_all=True, append_images=[person(2)], quality=90)


def transparent() -> Image.Image:
    """Return somebody who fades from left to right."""
    image = person(1).convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (128, 1))))
    return image


def text_of(num_bytes: int) -> PngImagePlugin.PngInfo:
    """Return a packed comment of so many bytes."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * num_bytes, zip=True)
    return info


def damaged_exif() -> bytes:
    """Return an EXIF with a readable orientation of 6 beside a field whose value lies outside of it."""
    orientation, damaged = (ORIENTATION_TAG, 3, 1, b"\0\6\0\0"), (0x0100, 1, 4, b"\xff\xff\xff\0")
    entries = b"".join(struct.pack(">HHI4s", *entry) for entry in (damaged, orientation))
    return b"Exif\0\0MM\0*\0\0\0\x08\0\2" + entries + bytes(4)


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def _jpeg(**options: object) -> bytes:
    return encode(person(1), "JPEG", quality=90, **options)


def _png(mode: str, **options: object) -> bytes:
    return encode(person(1).convert(mode), "PNG", **options)


def _oriented(kind: str, orientation: int) -> Callable[[], bytes]:
    return lambda: encode(person(1), kind, exif=exif_of(orientation))


FORMS: dict[str, Callable[[], bytes]] = {
    "plain.jpg": _jpeg,
    "progressive.jpg": lambda: _jpeg(progressive=True),
    "grey.jpg": lambda: encode(person(1).convert("L"), "JPEG"),
    "cmyk.jpg": lambda: encode(person(1).convert("CMYK"), "JPEG"),
    "full-colour.jpg": lambda: _jpeg(subsampling=0),
    "icc.jpg": lambda: _jpeg(icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    "commented.jpg": lambda: after_start(_jpeg(), segment(0xFE, b"a comment"), segment(0xED, bytes(500))),
    "restarts.jpg": lambda: _jpeg(restart_marker_blocks=1),
    "xmp.jpg": lambda: after_start(_jpeg(), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
    "empty-exif.jpg": lambda: _jpeg(exif=b"Exif\0\0"),
    "broken-exif.jpg": lambda: _jpeg(exif=b"Exif\0\0MM\0*\0\0\xff\xff"),
    "trailer.jpg": lambda: _jpeg() + b"a trailer" * 100,
    "phone.jpg": phone_jpeg,
    "no-end.jpg": lambda: _jpeg()[:-2],
    "no-end-progressive.jpg": lambda: _jpeg(progressive=True)[:-2],
    "half-end.jpg": lambda: _jpeg()[:-1],
    "plain.png": lambda: _png("RGB"),
    "grey.png": lambda: _png("L"),
    "one-bit.png": lambda: _png("1"),
    "palette.png": lambda: _png("P"),
    "grey-2.png": lambda: grey_png(2),
    "grey-4.png": lambda: grey_png(4),
    "grey-16.png": lambda: grey_png(16),
    "rgb-16.png": lambda: png_of(64, 128, 16, 2, rows_of(deep_colours())),
    "rgba-16.png": lambda: png_of(
        64, 128, 16, 6, rows_of(np.dstack([deep_colours(), np.full((128, 64), 40_000, np.uint16)]))
    ),
    "grey-alpha-16.png": lambda: png_of(64, 128, 16, 4, rows_of(deep_colours()[..., :2])),
    "rgba.png": lambda: encode(transparent(), "PNG"),
    "grey-alpha.png": lambda: encode(transparent().convert("LA"), "PNG"),
    "palette-colour.png": lambda: _png("P", transparency=3),
    "palette-alphas.png": lambda: _png("P", transparency=bytes(range(0, 256, 2))),
    "rgb-colour.png": lambda: _png("RGB", transparency=person(1).getpixel((0, 0))),
    "grey-colour.png": lambda: _png("L", transparency=person(1).convert("L").getpixel((0, 0))),
    "interlaced.png": interlaced_png,
    "icc.png": lambda: _png("RGB", icc_profile=bytes(range(256)) * 20),
    "big-text.png": lambda: _png("RGB", pnginfo=text_of(2 * MEBIBYTE)),
    "xmp.png": lambda: after_header(
        _png("RGB"), chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))
    ),
    "profile.png": lambda: after_header(
        _png("RGB"),
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n      36\n" + hex_exif()),
    ),
    "animated.png": lambda: _png("RGB", save_all=True, append_images=[person(2)]),
    "lossy.webp": lambda: encode(person(1), "WEBP"),
    "lossless.webp": lambda: encode(person(1), "WEBP", lossless=True),
    "rgba.webp": lambda: encode(transparent(), "WEBP", lossless=True),
    "animated.webp": lambda: encode(person(1), "WEBP", save_all=True, append_images=[person(2)]),
    "plain.bmp": lambda: encode(person(1), "BMP"),
    "grey.bmp": lambda: encode(person(1).convert("L"), "BMP"),
    "one-bit.bmp": lambda: encode(person(1).convert("1"), "BMP"),
    "palette.bmp": lambda: encode(person(1).convert("P"), "BMP"),
    "top-down.bmp": top_down_bmp,
    "32-bits.bmp": bmp_of_32_bits,
    "run-lengths.bmp": run_length_bmp,
    **{f"exif-{n}.jpg": _oriented("JPEG", n) for n in range(1, 10)},
    **{f"exif-{n}.png": _oriented("PNG", n) for n in range(1, 10)},
    **{f"exif-{n}.webp": _oriented("WEBP", n) for n in range(1, 10)},
}
"""Pictures that are taken, by name. Pillow alone can read each of them, except for the names in `BY_HAND`."""


def hex_exif() -> bytes:
    """Return an EXIF with an orientation of 6 in hexadecimal digits."""
    return exif_of(6).tobytes().hex().encode()


BY_HAND: dict[str, Callable[[], bytes]] = {
    "no-end.jpg": _jpeg,
    "no-end-progressive.jpg": lambda: _jpeg(progressive=True),
    "half-end.jpg": _jpeg,
    "big-text.png": lambda: _png("RGB"),
}
"""The same pictures in a form that Pillow reads, for forms that Pillow refuses."""

REFUSED: dict[str, Callable[[], bytes]] = {
    "empty.jpg": lambda: b"",
    "text.jpg": lambda: b"this is not an image\n" * 20,
    "page.jpg": lambda: b"<!DOCTYPE html><html></html>",
    "picture.gif": lambda: encode(person(1).convert("P"), "GIF"),
    "gif.jpg": lambda: encode(person(1).convert("P"), "GIF"),
    "picture.tif": lambda: encode(person(1), "TIFF"),
    "picture.heic": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(2000),
    "picture.jp2": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(2000),
    "line-end-first.jpg": lambda: b"\r\n" + _jpeg(),
    "cut-3.jpg": lambda: _jpeg()[:-3],
    "cut-20.jpg": lambda: _jpeg()[:-20],
    "cut-third.jpg": lambda: _jpeg()[: len(_jpeg()) * 2 // 3],
    "cut-scans.jpg": lambda: _cut_before_last_scan(_jpeg(progressive=True)),
    "cut.png": lambda: _png("RGB")[:-200],
    "cut.webp": lambda: encode(person(1), "WEBP")[:-200],
    "cut.bmp": lambda: encode(person(1), "BMP")[:-200],
    "header-alone.jpg": lambda: _jpeg()[:20],
    "few-pixels.png": lambda: png_of(64, 128, 8, 2, bytes(100)),
}
"""Files that are refused as unreadable, by name."""


def _cut_before_last_scan(jpeg: bytes) -> bytes:
    return jpeg[: jpeg.rindex(b"\xff\xda")]


def reference(data: bytes) -> Pixels:
    """Return the pixels of a picture as Pillow alone reads them: upright RGB (H, W, 3), on white."""
    with Image.open(BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "I;16":
            greys = (np.asarray(upright).astype(np.uint32) // 256).astype(np.uint8)
            return np.repeat(greys[..., None], 3, axis=2)
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            return np.asarray(
                Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
            )
        return np.asarray(upright.convert("RGB"))
