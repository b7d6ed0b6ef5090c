"""The items that are added to an index."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """Items to add: entry i of every field belongs to item i.

    Attributes:
        slots: ascending numbers under which the caller knows the items.
        identity_keys: the key of each item's identity.
        camera_ids: None for an item without a camera.
        captured_ats: times with a time zone; None for an item without a time.
        track_ids: None for an item without a track.
        embeddings_ND: (N, D) float16, finite.
    """

    slots: Sequence[int]
    identity_keys: Sequence[int]
    camera_ids: Sequence[str | None]
    captured_ats: Sequence[datetime | None]
    track_ids: Sequence[str | None]
    embeddings_ND: NDArray[np.float16]  # noqa: N815 - a shape suffix
