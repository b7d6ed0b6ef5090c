"""Embed stored crops again, and compare the results with stored embeddings."""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.data.images import Limits, decoded_bytes
from model.embedder import Embedder
from service.errors import CropMissing, ImageError, NotFinite, ServiceError
from service.serving.embedding import embed_in_batches
from service.store.store import Store
from service.uploads.requests import decode, read_header, stored_limits

Key = TypeVar("Key", bound=Hashable)

CROPS_AT_ONCE = 2
"""Stored crops that are decoded and embedded together. They are few, because a search may wait for them."""

MIN_COSINE = 0.99
"""Least cosine of two embeddings of one crop by one network, perhaps made by two kinds of processor."""


@dataclass(frozen=True)
class Likeness:
    """How a stored embedding compares with one that the network makes now.

    Attributes:
        cosine: of the two embeddings, from -1 to 1.
        length: L2 norm of the stored embedding; 1 is right.
    """

    cosine: float
    length: float

    @property
    def is_same(self) -> bool:
        """Tell whether the two embeddings are equal except for rounding."""
        return self.cosine >= MIN_COSINE and abs(self.length - 1) <= 1 - MIN_COSINE


def compare(stored: bytes, made_D: NDArray[np.float32]) -> Likeness:
    """Compare a stored embedding (float16, little endian) with one that was made now, L2-normalised."""
    stored_D = np.frombuffer(stored, "<f2").astype(np.float32)
    length = float(np.linalg.norm(stored_D))
    return Likeness(float(stored_D @ made_D) / max(length, 1e-12), length)


def embed_stored(
    store: Store,
    embedder: Embedder,
    sha256s: Mapping[Key, str],
    skipped: tuple[type[ServiceError], ...] = (CropMissing,),
) -> dict[Key, NDArray[np.float32]]:
    """Embed stored crops, and hold `CROPS_AT_ONCE` of them decoded at a time.

    Args:
        store: keeps the crops.
        embedder: the network.
        sha256s: the hashes of the crops by any key.
        skipped: errors after which a crop is left out; any other error is raised.

    Returns:
        The embeddings by key, each (D,), L2-normalised.

    Raises:
        CropMissing: a crop is gone, unless that is among `skipped`.
        ImageError: a crop is no image, unless that is among `skipped`; `position` is that of its key.
        NotFinite: an embedding is not finite; `position` is that of its key in `sha256s`.
    """
    embeddings: dict[Key, NDArray[np.float32]] = {}
    limits = stored_limits(store.settings.max_pixels)
    for group in _groups(sha256s):
        images: list[tuple[Image.Image, Key]] = []
        with ExitStack() as counted:
            for key in group:
                try:
                    images.append((_decode(store, sha256s[key], limits, counted), key))
                except skipped:
                    continue
                except ImageError as error:
                    error.position = list(sha256s).index(key)
                    raise
            if images:
                try:
                    embeddings_ND, keys = embed_in_batches(embedder, images)
                except NotFinite as error:
                    error.position = list(sha256s).index(images[error.position][1])
                    raise
                embeddings |= zip(keys, embeddings_ND, strict=True)
    return embeddings


def _decode(store: Store, sha256: str, limits: Limits, counted: ExitStack) -> Image.Image:
    """Decode a stored crop, and count its bytes as in flight until the stack is left."""
    data = store.crops.get(sha256)
    counted.enter_context(store.decoding.count(decoded_bytes(read_header(data, limits))))
    return decode(data, limits)[0]


def _groups(sha256s: Mapping[Key, str]) -> Iterator[list[Key]]:
    keys = iter(sha256s)
    while group := list(islice(keys, CROPS_AT_ONCE)):
        yield group
