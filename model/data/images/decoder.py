"""Bytes become an upright RGB image, or an error says why not.

Transparent pixels become white, as in a viewer. An animation becomes its first frame, and a JPEG with several
pictures its first one. Samples of 16 bits keep their upper 8 bits.
"""

import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageChops

from model.data.images.bmp import SIGNATURE as BMP
from model.data.images.bmp import read_bmp
from model.data.images.header import STRIP_PIXELS, Header, Limits, Picture, check_cost, decoded_bytes
from model.data.images.jpeg import SIGNATURE as JPEG
from model.data.images.jpeg import read_jpeg
from model.data.images.orientation import turn_upright
from model.data.images.png import SIGNATURE as PNG
from model.data.images.png import read_png
from model.data.images.webp import is_webp, read_webp
from model.errors import ImageError, OutOfMemory, OversizedImage, UnreadableImage

CONTENT_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "BMP": "image/bmp"}

HOSTILE_BYTES_RAISE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)
"""Errors that Pillow raises for broken files, besides its own errors."""

TORN = "the image is torn or damaged"

END_OF_JPEG = b"\xff\xd9"
PADS = tuple(hashlib.sha512(seed).digest().replace(b"\xff", b"") for seed in (b"one", b"other"))
"""Two endings for a JPEG without an end. Pixels that were in the file are the same with both."""


@dataclass(frozen=True)
class ImageInfo:
    """Properties of an image.

    Args:
        sha256: of the encoded bytes, 64 hex digits.
        content_type: a value of CONTENT_TYPES.
        width: of the upright image, in pixels.
        height: of the upright image, in pixels.
    """

    sha256: str
    content_type: str
    width: int
    height: int


def read_header(data: bytes, limits: Limits) -> Header:
    """Read the header of an image, and check what the image would cost, without decoding it.

    Args:
        data: an encoded image.
        limits: the sizes that are accepted.

    Raises:
        OversizedImage: the image has more bytes than the limit, or would take too long or too many pixels.
        UndersizedImage: the width or the height has fewer pixels than the limit.
        UnreadableImage: the bytes do not begin as a JPEG, PNG, WebP or BMP image does.
    """
    return _read(data, limits).header


def decode(data: bytes, limits: Limits) -> tuple[Image.Image, ImageInfo]:
    """Decode one image to RGB, and turn the image upright by its EXIF orientation.

    Args:
        data: an encoded image.
        limits: the sizes that are accepted.

    Raises:
        OutOfMemory: the machine cannot give the memory that the image needs.
        OversizedImage: the image has more bytes than the limit, or would take too long or too many pixels.
        UndersizedImage: the width or the height has fewer pixels than the limit.
        UnreadableImage: the bytes are not a whole JPEG, PNG, WebP or BMP image.
    """
    picture = _read(data, limits)
    needed = decoded_bytes(picture.header)
    try:
        _require(needed)
        rgb = _decode(picture)
    except MemoryError:
        raise OutOfMemory(f"no memory to decode an image, which takes {needed:,} bytes") from None
    except ImageError as error:
        # The C libraries do not tell a lack of memory from a damaged file.
        _check_blame(needed, error)
        raise
    content_type = CONTENT_TYPES[picture.header.format]
    return rgb, ImageInfo(hashlib.sha256(data).hexdigest(), content_type, rgb.width, rgb.height)


def _read(data: bytes, limits: Limits) -> Picture:
    if len(data) > limits.max_upload_bytes:
        raise OversizedImage(f"more than {limits.max_upload_bytes:,} bytes")
    picture = _reader(data)(data)
    check_cost(picture.header, limits)
    return picture


def _reader(data: bytes) -> Callable[[bytes], Picture]:
    if not data:
        raise UnreadableImage("the file is empty")
    for signature, reader in ((JPEG, read_jpeg), (PNG, read_png), (BMP, read_bmp)):
        if data.startswith(signature):
            return reader
    if is_webp(data):
        return read_webp
    raise UnreadableImage("not a JPEG, PNG, WebP or BMP image")


def _require(num_bytes: int) -> None:
    """Check that the machine can give this much memory; the memory is given back at once, untouched.

    Raises:
        MemoryError: the memory is not there.
    """
    np.empty(num_bytes, np.uint8)


def _check_blame(needed: int, error: ImageError) -> None:
    try:
        _require(needed)
    except MemoryError:
        raise OutOfMemory(f"no memory to decode an image, which takes {needed:,} bytes") from error


def _decode(picture: Picture) -> Image.Image:
    file = b"".join(picture.pieces)
    if picture.is_whole:
        return _open(picture, file)
    file = file.rstrip(b"\xff")
    one, other = (_open(picture, file + pad + END_OF_JPEG) for pad in PADS)
    if ImageChops.difference(one, other).getbbox() is not None:
        raise UnreadableImage(TORN)
    return one


def _open(picture: Picture, file: bytes) -> Image.Image:
    header = picture.header
    try:
        rgb, exif, xmp = _load(picture, file)
        turn_upright(rgb, exif, xmp)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise OversizedImage(f"{header.width} x {header.height} is more pixels than Pillow decodes") from None
    except HOSTILE_BYTES_RAISE as error:
        raise UnreadableImage(TORN) from error
    return rgb


def _load(picture: Picture, file: bytes) -> tuple[Image.Image, bytes, bytes]:
    """Return the pixels in RGB, the EXIF and the XMP; the image in its own mode is given back by then."""
    header = picture.header
    with Image.open(BytesIO(file), formats=(header.format,)) as image:
        if image.size != (header.width, header.height):
            raise UnreadableImage(TORN)
        if header.format == "WEBP":
            return _to_rgb(image), image.info.get("exif", b""), image.info.get("xmp", b"")
        return _to_rgb(image), picture.exif, picture.xmp


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return the pixels of an image as RGB, on white where they are transparent.

    Strips of the image are converted one after the other, because a conversion needs up to six copies.
    """
    image.load()
    if image.mode == "RGB" and not image.has_transparency_data:
        return image.convert("RGB")
    rgb = Image.new("RGB", image.size)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        rgb.paste(_strip_to_rgb(strip), (0, top))
    return rgb


def _strip_to_rgb(strip: Image.Image) -> Image.Image:
    if strip.mode.startswith("I"):
        samples_HW = np.asarray(strip)
        greys_HW = (samples_HW >> 8).astype(np.uint8)
        if "transparency" in strip.info:
            greys_HW[samples_HW == strip.info["transparency"]] = 255
        return Image.fromarray(greys_HW).convert("RGB")
    if strip.has_transparency_data:
        seen = strip.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return strip.convert("RGB")
