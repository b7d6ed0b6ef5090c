"""Load networks and embed crops with them, a few at a time."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import select

from model.checkpoint import load_checkpoint
from model.embedder import Embedder
from model.errors import ModelError
from model.interop.trial import try_out
from service.errors import NotFinite, ServiceError, UnfitCheckpoint
from service.settings import Settings
from service.store.store import Store
from service.store.tables import Model

MAX_BATCH = 16
MAX_BATCH_PIXELS = 4_000_000
"""A batch ends at this many pixels, so that of 64 huge images only one is decoded at a time."""


def load_embedder(path: Path, settings: Settings) -> Embedder:
    """Load a network and try it on a few images.

    Raises:
        UnfitCheckpoint: the file is no network that can be served, or its embeddings are of no use.
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
        ServiceError: its file is gone, has changed, or is no network that can be served.
    """
    with store.read() as session:
        filename = session.scalars(select(Model.filename).where(Model.version == version)).one()
    embedder = load_embedder(store.settings.models_dir / filename, store.settings)
    if embedder.version != version:
        raise ServiceError(f"{filename} has changed on the disk: its version is now {embedder.version}")
    return embedder


def embed_in_batches(
    embedder: Embedder,
    images: Iterable[Image.Image],
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> NDArray[np.float32]:
    """Embed images as they come, and hold few of them decoded at a time.

    Args:
        embedder: the network.
        images: upright RGB images.
        turn: entered around each batch; it may wait.

    Returns:
        The embeddings, (N, D), L2-normalised.

    Raises:
        NotFinite: the network makes an embedding that is not finite.
    """
    batch: list[Image.Image] = []
    parts = []
    for image in images:
        batch.append(image)
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
    return embeddings_ND


def to_half(embeddings_ND: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round embeddings to the type that is stored and indexed: float16, little endian."""
    return np.ascontiguousarray(embeddings_ND, "<f2")
