"""What requests share: the database, the crops, the writer lock and the current Generation.

A request takes `serving.current()` once and works with it to its end. A swap replaces that one reference, so
the embedder and the index that a request sees always belong together.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event, Lock
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import Row, select

from model.checkpoint import load_checkpoint
from model.embedder import Embedder
from model.errors import ModelError
from service.database import Sessions
from service.errors import NotReady, ServiceError, UnfitCheckpoint
from service.images import Limits
from service.index import GalleryIndex, Rows
from service.settings import Settings
from service.storage import CropStore
from service.tables import Embedding, Item

MAX_BATCH = 16
MAX_BATCH_PIXELS = 4_000_000
"""A batch ends here, so that a request of 64 huge images never holds more than one of them decoded."""

ROWS_PER_PAGE = 2_000


@dataclass(frozen=True)
class Generation:
    """One model version in service: what `embedder` makes is searched in `index`, and in no other."""

    version: str
    embedder: Embedder
    index: GalleryIndex


class Serving:
    """Holds what requests share; `writer_lock` is held by whoever changes the gallery or the generation.

    `enrolling_lock` is held by the one enrolment that may embed, so that a search never waits for several.
    """

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        self.settings = settings
        self.sessions = sessions
        self.crops = CropStore(settings.crops_dir)
        self.limits = Limits(settings.max_upload_bytes, settings.max_pixels, settings.min_side)
        self.writer_lock = Lock()
        self.enrolling_lock = Lock()
        self.stopping = Event()
        self._generation: Generation | None = None
        self._failure: str | None = None

    def current(self) -> Generation:
        """Return the generation to work with; take it once a request.

        Raises:
            NotReady: while the first one is loading, or if that has failed.
        """
        generation = self._generation
        if generation is None:
            raise NotReady(self._failure or "the network and the index are being loaded; try again soon")
        return generation

    def replace(self, generation: Generation) -> None:
        """Let requests that begin from now on use this generation; under the writer lock once serving."""
        self._generation = generation

    def close(self) -> None:
        """Stop what the index does in the background, and wait until it has."""
        if self._generation is not None:
            self._generation.index.close()

    def fail(self, reason: str) -> None:
        """Say why there will be no generation."""
        self._failure = reason

    def read_upload(self, upload: BinaryIO) -> bytes:
        """Return the bytes of an upload, at most one more than is allowed."""
        upload.seek(0)
        return upload.read(self.limits.max_upload_bytes + 1)


def load_embedder(path: Path, settings: Settings) -> Embedder:
    """Load a network and try it on one image.

    Raises:
        UnfitCheckpoint: if the file is no network of ours, or its embedding is no unit vector.
    """
    try:
        checkpoint = load_checkpoint(path)
        embedder = Embedder(checkpoint, settings.device, settings.precision, cache_dir=settings.cache_dir)
    except ModelError as error:
        raise UnfitCheckpoint(str(error)) from error
    with np.errstate(over="ignore", invalid="ignore"):
        (trial_D,) = embedder.embed([Image.new("RGB", (64, 128), (110, 100, 90))])
        length = float(np.linalg.norm(trial_D))
    if not 0.99 < length < 1.01:
        raise UnfitCheckpoint(f"an embedding that it made on trial has length {length:.3g} and not 1")
    return embedder


def embed_in_batches(
    embedder: Embedder, images: Iterable[Image.Image], turn: AbstractContextManager[object] | None = None
) -> NDArray[np.float32]:
    """Embed images as they come, holding few of them at a time: (N, D), L2-normalised.

    Each batch waits for its turn, if there is one.

    Raises:
        ServiceError: if the network makes an embedding that is not finite.
    """
    batch: list[Image.Image] = []
    parts = []
    for image in images:
        batch.append(image)
        if len(batch) == MAX_BATCH or sum(i.width * i.height for i in batch) >= MAX_BATCH_PIXELS:
            with turn or nullcontext():
                parts.append(embedder.embed(batch))
            batch = []
    with turn or nullcontext():
        parts.append(embedder.embed(batch))
    embeddings_ND = np.concatenate(parts)
    if not np.isfinite(embeddings_ND).all():
        raise ServiceError(f"model version {embedder.version} made an embedding that is not finite")
    return embeddings_ND


def to_half(embeddings_ND: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round embeddings to what is stored and indexed: float16, little endian."""
    return np.ascontiguousarray(embeddings_ND, "<f2")


def load_index(serving: Serving, version: str, embedding_size: int) -> GalleryIndex:
    """Build the index of one model version from the embeddings in the database."""
    index = GalleryIndex(embedding_size, serving.settings.index)
    extend_index(serving, version, index)
    return index


def extend_index(serving: Serving, version: str, index: GalleryIndex) -> None:
    """Add what has come to the database since the last slot of the index."""
    last = int(index.slots()[-1]) if len(index) else 0
    statement = (
        select(
            Item.slot, Item.identity_key, Item.camera_id, Item.captured_at, Item.track_id, Embedding.values
        )
        .join(Embedding, Embedding.slot == Item.slot)
        .where(Embedding.model_version == version, Item.slot > last)
        .order_by(Item.slot)
        .execution_options(yield_per=ROWS_PER_PAGE)
    )
    with serving.sessions.read() as session:
        for page in session.execute(statement).partitions():
            index.add(_rows(page, index.embedding_size))


def _rows(
    page: Sequence[Row[int, int, str | None, datetime | None, str | None, bytes]], embedding_size: int
) -> Rows:
    slots, identity_keys, camera_ids, captured_ats, track_ids, values = zip(*page, strict=True)
    embeddings_ND = np.frombuffer(b"".join(values), "<f2").reshape(len(page), embedding_size)
    return Rows(slots, identity_keys, camera_ids, captured_ats, track_ids, embeddings_ND)
