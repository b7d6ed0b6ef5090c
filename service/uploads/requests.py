"""Read and decode the images of a request within limits; errors name the position of the refused image."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import BinaryIO

from PIL import Image

from model.data import images
from model.errors import ImageError as RefusedImage
from model.errors import OversizedImage, UndersizedImage
from service.errors import CropTooSmall, ImageError, ImageTooLarge, UnreadableImage

REFUSALS: dict[type[RefusedImage], type[ImageError]] = {
    OversizedImage: ImageTooLarge,
    UndersizedImage: CropTooSmall,
}
"""The refusals of the decoder that are not `UnreadableImage`, as errors of the service."""


def read_upload(upload: BinaryIO, limits: images.Limits) -> bytes:
    """Return the bytes of an upload, at most one more than the limits allow."""
    upload.seek(0)
    return upload.read(limits.max_upload_bytes + 1)


def decode(data: bytes, limits: images.Limits, position: int = 0) -> tuple[Image.Image, images.ImageInfo]:
    """Decode one image, the `position`-th of its request, to upright RGB.

    Raises:
        ImageTooLarge: the image has more bytes or, by its header, more pixels than the limits allow.
        CropTooSmall: the image has too few pixels a side.
        UnreadableImage: the bytes are not a whole JPEG, PNG, WebP or BMP image.
    """
    try:
        return images.decode(data, limits)
    except RefusedImage as error:
        raise REFUSALS.get(type(error), UnreadableImage)(str(error), position) from error


def decode_uploads(
    uploads: Sequence[BinaryIO], limits: images.Limits
) -> Iterator[tuple[Image.Image, images.ImageInfo]]:
    """Decode uploads one after the other; an upload is decoded only when the caller asks for it.

    Raises:
        ImageError: an image is refused; `position` is that of its upload.
    """
    for position, upload in enumerate(uploads):
        yield decode(read_upload(upload, limits), limits, position)


def thumbnail(data: bytes, size: int) -> bytes:
    """Return a stored crop as a JPEG whose longer side has at most `size` pixels, never enlarged."""
    image, _ = decode(data, images.UNLIMITED)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    jpeg = BytesIO()
    image.save(jpeg, "JPEG", quality=85)
    return jpeg.getvalue()
