"""The decoder of untrusted images: bytes become an upright RGB image, or an error says why not.

No other module of service and training decodes images. The size in the header is checked before any pixel is
decoded. Transparent pixels become white, as in a viewer. An animation becomes its first frame. Greys of 16
bits keep the upper 8 bits.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from model.errors import OversizedImage, UndersizedImage, UnreadableImage

CONTENT_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "BMP": "image/bmp"}

HOSTILE_BYTES_RAISE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
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

ORIENTATION_TAG = 0x0112
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Limits:
    """The sizes of images that ``decode`` accepts.

    Args:
        max_upload_bytes: most bytes of an encoded image.
        max_pixels: most pixels, width x height, by the header.
        min_side: fewest pixels of the width and of the height.
    """

    max_upload_bytes: int
    max_pixels: int
    min_side: int


UNLIMITED = Limits(max_upload_bytes=1 << 62, max_pixels=1 << 62, min_side=1)
"""For stored crops. They were checked when they were stored, and the limits may be stricter today."""


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


def decode(data: bytes, limits: Limits) -> tuple[Image.Image, ImageInfo]:
    """Decode one image to RGB, and turn the image upright by its EXIF orientation.

    Args:
        data: an encoded image.
        limits: the sizes that are accepted.

    Raises:
        OversizedImage: the image has more bytes than the limit or, by its header, more pixels.
        UndersizedImage: the width or the height has fewer pixels than the limit.
        UnreadableImage: the bytes are not a whole JPEG, PNG, WebP or BMP image.
    """
    if len(data) > limits.max_upload_bytes:
        raise OversizedImage(f"more than {limits.max_upload_bytes:,} bytes")
    try:
        with Image.open(BytesIO(data), formats=tuple(CONTENT_TYPES)) as image:
            _check_size(image.size, limits)
            rgb = _upright(image, _to_rgb(image))
            content_type = CONTENT_TYPES[str(image.format)]
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise OversizedImage(f"more than {limits.max_pixels:,} pixels") from None
    except HOSTILE_BYTES_RAISE as error:
        raise UnreadableImage(_reason(data, error)) from error
    return rgb, ImageInfo(hashlib.sha256(data).hexdigest(), content_type, rgb.width, rgb.height)


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise OversizedImage(f"{width} x {height} is more than {limits.max_pixels:,} pixels")
    if min(size) < limits.min_side:
        raise UndersizedImage(f"{width} x {height} has fewer than {limits.min_side} pixels a side")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        greys_HW = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(greys_HW.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image, rgb: Image.Image) -> Image.Image:
    """Turn the pixels as the EXIF orientation of an image says, if the orientation can be read.

    `ImageOps.exif_transpose` of Pillow is not used, because it also rewrites the EXIF. If another field is
    damaged, it raises AttributeError, TypeError or struct.error, although the orientation is readable.
    """
    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
    except HOSTILE_BYTES_RAISE:
        return rgb
    if not isinstance(orientation, int) or orientation not in ORIENTATIONS:
        return rgb
    return rgb.transpose(ORIENTATIONS[orientation])


def _reason(data: bytes, error: BaseException) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not a JPEG, PNG, WebP or BMP image"
    return "the image is torn or damaged"
