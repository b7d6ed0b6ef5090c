"""Load networks, and embed crops in batches."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import select

from model.checkpoint import load_checkpoint
from model.data.images import Header, decoded_bytes
from model.embedder import Embedder
from model.errors import ModelError, RuntimeUnavailable
from model.interop.trial import try_out
from model.runtime import require_runtime
from service import metrics
from service.errors import BadSettings, NotFinite, UnfitCheckpoint
from service.settings import Settings
from service.store.store import Store
from service.store.tables import Model
from service.uploads.requests import go_on

Tag = TypeVar("Tag")

RGB_BYTES = 4
"""Bytes of a decoded pixel, as Pillow holds it."""

MAX_BATCH = 16
"""Images in a batch."""

MAX_BATCH_PIXELS = 4_000_000
"""A batch ends at this many pixels, so that huge images are decoded one at a time."""


def require_device(settings: Settings) -> None:
    """Check that this machine can run networks as REID_DEVICE and REID_PRECISION say.

    Raises:
        BadSettings: the machine has no such device, or the device has no such precision.
    """
    try:
        require_runtime(settings.device, settings.precision)
    except RuntimeUnavailable as error:
        raise BadSettings(
            f"REID_DEVICE={settings.device}, REID_PRECISION={settings.precision}: {error}"
        ) from error


def load_embedder(
    path: Path, settings: Settings, version: str | None = None, *, is_cache_read_only: bool = False
) -> Embedder:
    """Load the network of a checkpoint and try it on a few images.

    Args:
        path: the checkpoint.
        settings: the device, the precision and the cache of converted networks.
        version: the version that the file must have, if it is known.
        is_cache_read_only: whether nothing may be written into the cache.

    Raises:
        UnfitCheckpoint: the file is no checkpoint that can be served, or its embeddings are useless.
    """
    try:
        embedder = Embedder(
            load_checkpoint(path, version),
            settings.device,
            settings.precision,
            cache_dir=settings.cache_dir,
            is_cache_read_only=is_cache_read_only,
        )
        try_out(embedder)
    except ModelError as error:
        raise UnfitCheckpoint(str(error)) from error
    return embedder


def load_registered(store: Store, version: str, *, is_cache_read_only: bool = False) -> Embedder:
    """Load the network of a registered model version.

    Raises:
        ServiceError: the checkpoint is gone, has changed, or cannot be served.
    """
    path = _file_of(store, version)
    return load_embedder(path, store.settings, version, is_cache_read_only=is_cache_read_only)


def load_second_making(store: Store, version: str, runtime: str) -> Embedder:
    """Load a network of a registered version once more, in another way than the service does.

    A network of ours runs on torch if the service runs it on OpenVINO, and the other way round. A foreign
    network is read from its checkpoint. Nothing is taken from the cache.

    Args:
        store: the gallery.
        version: the model version.
        runtime: of the embedder of the service, such as ``openvino-bf16``.

    Raises:
        ServiceError: the checkpoint is gone, has changed, or cannot be served.
    """
    device = "torch-cpu" if runtime.startswith("openvino") else "cpu"
    try:
        return Embedder(load_checkpoint(_file_of(store, version), version), device, "fp32")
    except ModelError as error:
        raise UnfitCheckpoint(str(error)) from error


def _file_of(store: Store, version: str) -> Path:
    with store.read() as session:
        filename = session.scalars(select(Model.filename).where(Model.version == version)).one()
    return store.settings.models_dir / filename


def peak_bytes(headers: Iterable[Header]) -> int:
    """Return the most bytes that `embed_in_batches` holds for images that are decoded as it asks for them.

    The images of a batch are held in RGB while the next one is decoded.
    """
    peak = held = num_held = num_pixels = 0
    for header in headers:
        peak = max(peak, held + decoded_bytes(header))
        num_held, num_pixels = num_held + 1, num_pixels + header.pixels
        held = RGB_BYTES * num_pixels
        if is_full(num_held, num_pixels):
            held = num_held = num_pixels = 0
    return peak


def is_full(num_images: int, num_pixels: int) -> bool:
    """Tell whether a batch of so many images and pixels is to be embedded before another image is decoded."""
    return num_images == MAX_BATCH or num_pixels >= MAX_BATCH_PIXELS


def embed_in_batches(
    embedder: Embedder,
    images: Iterable[tuple[Image.Image, Tag]],
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    check: Callable[[], None] = go_on,
) -> tuple[NDArray[np.float32], list[Tag]]:
    """Embed images as they are decoded, and hold at most one batch of decoded images.

    Args:
        embedder: the network.
        images: upright RGB images, each with anything that the caller wants back, such as its `ImageInfo`.
        turn: makes a context manager that is entered around each batch; to enter it may take a while.
        check: called before a batch is embedded; raises an error if the work is no longer wanted.

    Returns:
        The embeddings, (N, D), L2-normalised, and what came with each image.

    Raises:
        NotFinite: the network makes an embedding that is not finite; `position` is that of its image.
    """
    batch: list[Image.Image] = []
    parts = []
    tags: list[Tag] = []
    for image, tag in images:
        batch.append(image)
        tags.append(tag)
        if is_full(len(batch), sum(i.width * i.height for i in batch)):
            with turn():
                check()
                parts.append(_embed(embedder, batch))
            batch = []
    with turn():
        check()
        parts.append(_embed(embedder, batch))
    embeddings_ND = np.concatenate(parts)
    is_finite_N = np.isfinite(embeddings_ND).all(axis=1)
    if not is_finite_N.all():
        raise NotFinite(embedder.version, int(np.argmin(is_finite_N)))
    return embeddings_ND, tags


def _embed(embedder: Embedder, batch: Sequence[Image.Image]) -> NDArray[np.float32]:
    if not batch:
        return embedder.embed(batch)  # of the right size, (0, D)
    metrics.BATCH_CROPS.observe(len(batch))
    with metrics.EMBED_S.time():
        return embedder.embed(batch)


def to_half(embeddings_ND: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round embeddings to the type that is stored and indexed: float16, little endian."""
    return np.ascontiguousarray(embeddings_ND, "<f2")
