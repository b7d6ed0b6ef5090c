"""Read and decode the images of a request within limits; errors name the position of the refused image."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from typing import BinaryIO

from PIL import Image

from model.data import images
from model.errors import ImageError as RefusedImage
from model.errors import OutOfMemory, OversizedImage, UndersizedImage
from service import metrics
from service.errors import CropTooSmall, DecodingBusy, ImageError, ImageTooLarge, UnreadableImage

REFUSALS: dict[type[RefusedImage], type[ImageError]] = {
    OversizedImage: ImageTooLarge,
    UndersizedImage: CropTooSmall,
}
"""The refusals of the decoder that are not `UnreadableImage`, as errors of the service."""


def go_on() -> None:
    """Let the work go on, because no client waits for it."""


def read_upload(upload: BinaryIO, limits: images.Limits) -> bytes:
    """Return the bytes of an upload, at most one more than the limits allow."""
    upload.seek(0)
    return upload.read(limits.max_upload_bytes + 1)


def read_headers(uploads: Sequence[BinaryIO], limits: images.Limits) -> list[images.Header]:
    """Read the headers of uploads, and check what they would cost, before any of them is decoded.

    Raises:
        ImageError: an image is refused by its header; `position` is that of its upload.
    """
    return [
        read_header(read_upload(upload, limits), limits, position) for position, upload in enumerate(uploads)
    ]


def read_header(data: bytes, limits: images.Limits, position: int = 0) -> images.Header:
    """Read the header of one image, the `position`-th of its request, and check what it would cost.

    Raises:
        ImageError: the image is refused by its header.
    """
    try:
        return images.read_header(data, limits)
    except RefusedImage as error:
        raise _refusal(error, position) from error


def decode(data: bytes, limits: images.Limits, position: int = 0) -> tuple[Image.Image, images.ImageInfo]:
    """Decode one image, the `position`-th of its request, to upright RGB.

    Raises:
        ImageTooLarge: the image has more bytes or, by its header, more pixels than the limits allow.
        CropTooSmall: the image has too few pixels a side.
        DecodingBusy: the machine has no memory to decode the image.
        UnreadableImage: the bytes are not a whole JPEG, PNG, WebP or BMP image.
    """
    try:
        with metrics.DECODE_S.time():
            return images.decode(data, limits)
    except RefusedImage as error:
        raise _refusal(error, position) from error
    except OutOfMemory as error:
        raise DecodingBusy from error


def _refusal(error: RefusedImage, position: int) -> ImageError:
    return REFUSALS.get(type(error), UnreadableImage)(str(error), position)


def decode_uploads(
    uploads: Sequence[BinaryIO], limits: images.Limits, check: Callable[[], None] = go_on
) -> Iterator[tuple[Image.Image, images.ImageInfo]]:
    """Decode uploads one after the other; an upload is decoded only when the caller asks for it.

    Args:
        uploads: the images.
        limits: the sizes that are accepted.
        check: called before each image is decoded; raises an error if the work is no longer wanted.

    Raises:
        ImageError: an image is refused; `position` is that of its upload.
    """
    for position, upload in enumerate(uploads):
        check()
        yield decode(read_upload(upload, limits), limits, position)


def stored_limits(max_pixels: int) -> images.Limits:
    """Return the limits of stored crops, of which an operator may have accepted larger ones than today.

    >>> stored_limits(4_000_000).max_pixels, stored_limits(100_000_000).max_pixels
    (40000000, 100000000)
    """
    return replace(images.STORED, max_pixels=max(images.STORED.max_pixels, max_pixels))


def thumbnail(data: bytes, size: int, limits: images.Limits) -> bytes:
    """Return a stored crop as a JPEG whose longer side has at most `size` pixels, never enlarged."""
    image, _ = decode(data, limits)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    jpeg = BytesIO()
    image.save(jpeg, "JPEG", quality=85)
    return jpeg.getvalue()
