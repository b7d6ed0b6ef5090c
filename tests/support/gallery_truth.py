"""The expected state of a gallery, and the networks and pictures for such galleries."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from live_server import crop, make_checkpoint
from model.checkpoint import load_checkpoint
from model.data.images import UNLIMITED, decode
from model.embedder import Embedder

NUM_NETWORKS = 3
NUM_PICTURES = 8
MANY = 40
"""Items that are more than one page of a backfill."""

KEPT_VERSIONS = 2
CLOSE = 0.01
"""The largest rounding error in an element of an embedding, or in a cosine."""


class Networks:
    """Tiny networks, and their embeddings of pictures."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.paths: dict[str, Path] = {}
        self._embedders: list[Embedder] = []
        for seed in range(NUM_NETWORKS):
            path = folder / f"{seed}.safetensors"
            self.paths[make_checkpoint(path, seed)] = path
            self._embedders.append(Embedder(load_checkpoint(path), cache_dir=self.cache))
        self.versions = list(self.paths)
        self._made: dict[tuple[str, int], NDArray[np.float32]] = {}

    def embed(self, version: str, picture: int) -> NDArray[np.float32]:
        """Return a version's embedding of a picture."""
        if (version, picture) not in self._made:
            image, _ = decode(PICTURES[picture], UNLIMITED)
            (self._made[version, picture],) = self._embedders[self.versions.index(version)].embed([image])
        return self._made[version, picture]


PICTURES = [crop(seed) for seed in range(NUM_PICTURES + MANY)]
SHA256S = [decode(data, UNLIMITED)[1].sha256 for data in PICTURES]


@dataclass
class Known:
    """The expected state of an item."""

    picture: int
    identity_id: str
    camera_id: str | None


@dataclass
class Truth:
    """The expected state of a gallery."""

    items: dict[str, Known] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    """Pictures whose file was deleted by hand."""

    left_out: set[str] = field(default_factory=set)
    """Items without an embedding of the active version, because the activation allowed missing ones."""

    registered: set[str] = field(default_factory=set)
    been: list[str] = field(default_factory=list)
    """Versions that are or were active, in the order of their last activation."""

    job_id: str = ""
    version: str = ""
    allow_missing: bool = False

    @property
    def active(self) -> str:
        """Return the version in service."""
        return self.been[-1]

    def drop(self, item_ids: list[str]) -> None:
        """Delete items from the expected state."""
        for item_id in item_ids:
            del self.items[item_id]
        self.left_out &= self.items.keys()
        self.lost &= {known.picture for known in self.items.values()}

    def activate(self, version: str, left_out: set[str]) -> None:
        """Make a version the active one."""
        self.been = [one for one in self.been if one != version] + [version]
        self.left_out = left_out
