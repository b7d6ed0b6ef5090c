"""Load networks, and embed crops in batches."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import select

from model.checkpoint import load_checkpoint
from model.embedder import Embedder
from model.errors import ModelError, RuntimeUnavailable
from model.interop.trial import try_out
from model.runtime import require_runtime
from service.errors import BadSettings, NotFinite, ServiceError, UnfitCheckpoint
from service.settings import Settings
from service.store.store import Store
from service.store.tables import Model

Tag = TypeVar("Tag")

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


def load_embedder(path: Path, settings: Settings) -> Embedder:
    """Load the network of a checkpoint and try it on a few images.

    Raises:
        UnfitCheckpoint: the file is no checkpoint that can be served, or its embeddings are useless.
    """
    try:
        checkpoint = load_checkpoint(path)
        embedder = Embedder(checkpoint, settings.device, settings.precision, cache_dir=settings.cache_dir)
        try_out(embedder)
    except ModelError as error:
        raise UnfitCheckpoint(str(error)) from error
    return embedder


def load_registered(store: Store, version: str) -> Embedder:
    """Load the network of a registered model version.

    Raises:
        ServiceError: the checkpoint is gone, has changed, or cannot be served.
    """
    with store.read() as session:
        filename = session.scalars(select(Model.filename).where(Model.version == version)).one()
    embedder = load_embedder(store.settings.models_dir / filename, store.settings)
    if embedder.version != version:
        raise ServiceError(f"{filename} has changed on the disk: its version is now {embedder.version}")
    return embedder


def embed_in_batches(
    embedder: Embedder,
    images: Iterable[tuple[Image.Image, Tag]],
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> tuple[NDArray[np.float32], list[Tag]]:
    """Embed images as they are decoded, and hold at most one batch of decoded images.

    Args:
        embedder: the network.
        images: upright RGB images, each with anything that the caller wants back, such as its `ImageInfo`.
        turn: makes a context manager that is entered around each batch; to enter it may take a while.

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
        if len(batch) == MAX_BATCH or sum(i.width * i.height for i in batch) >= MAX_BATCH_PIXELS:
            with turn():
                parts.append(embedder.embed(batch))
            batch = []
    with turn():
        parts.append(embedder.embed(batch))
    embeddings_ND = np.concatenate(parts)
    is_finite_N = np.isfinite(embeddings_ND).all(axis=1)
    if not is_finite_N.all():
        raise NotFinite(embedder.version, int(np.argmin(is_finite_N)))
    return embeddings_ND, tags


def to_half(embeddings_ND: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round embeddings to the type that is stored and indexed: float16, little endian."""
    return np.ascontiguousarray(embeddings_ND, "<f2")
