"""The labelled items of a gallery, on which model versions are evaluated."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row, Select, func, or_, select
from sqlalchemy.orm import Session

from service.errors import TooFewLabels
from service.serving.tracks import find_tracks
from service.store.database import pages
from service.store.tables import Item
from service.versions.metrics import NOWHERE, draw_identities, find_queries, viewpoints_of

MAX_ITEMS = 100_000
"""The most labelled items in an evaluation. If there are more, identities are drawn at random."""

MIN_IDENTITIES = 2
MIN_QUERIES = 10


@dataclass(frozen=True)
class Labelled:
    """N labelled items, in the order of their slots.

    Attributes:
        slots: the slot of each item.
        identity_keys: (N,), the key of each item's identity.
        viewpoints: (N,), the camera or track of each item; see `viewpoints_of`.
        num_all: how many labelled items the gallery has, those not drawn included.
    """

    slots: list[int]
    identity_keys: NDArray[np.int64]
    viewpoints: NDArray[np.int64]
    num_all: int

    def only(self, is_kept: NDArray[np.bool_]) -> "Labelled":
        """Return the items where `is_kept` (N,) is true."""
        slots = [self.slots[place] for place in np.flatnonzero(is_kept).tolist()]
        return Labelled(slots, self.identity_keys[is_kept], self.viewpoints[is_kept], self.num_all)

    def queries(self) -> "Labelled":
        """Return the items that have another item of their identity at another viewpoint."""
        is_query = np.zeros(len(self.slots), bool)
        is_query[find_queries(self.identity_keys, self.viewpoints)] = True
        return self.only(is_query)


def find_labelled(session: Session, track_gap_s: float) -> Labelled:
    """Return the labelled items of the gallery, at most `MAX_ITEMS` of them.

    Args:
        session: a session that reads.
        track_gap_s: as for `find_tracks`.
    """
    rows = session.execute(_candidates().order_by(Item.slot)).all()
    keys = np.array([row.identity_key for row in rows], np.int64)
    cameras, tracks = _codes([row.camera_id for row in rows]), _track_codes(session, rows, track_gap_s)
    viewpoints = viewpoints_of(keys, cameras, tracks)
    is_labelled = viewpoints != NOWHERE
    found = Labelled([row.slot for row in rows], keys, viewpoints, int(is_labelled.sum())).only(is_labelled)
    return found.only(draw_identities(found.identity_keys, MAX_ITEMS))


def require_enough(labelled: Labelled) -> None:
    """Check that there are enough items for an evaluation.

    Raises:
        TooFewLabels: there are too few items; the message says how many are needed.
    """
    num_identities = len(np.unique(labelled.identity_keys))
    num_queries = len(find_queries(labelled.identity_keys, labelled.viewpoints))
    if num_identities < MIN_IDENTITIES or num_queries < MIN_QUERIES:
        raise TooFewLabels(
            f"an evaluation needs at least {MIN_IDENTITIES} identities with items of two cameras or two "
            f"tracks, and at least {MIN_QUERIES} such items; the gallery has {num_identities} identities and "
            f"{num_queries} items like that with crops or embeddings: enrol more crops, or give items of the "
            "gallery their identity and camera"
        )


def _candidates() -> Select[int, int, str | None, str | None]:
    """Select the items of identities with two cameras, or with two items that have a track id.

    The two items may be on two tracks, even of one track id.
    """
    several = (
        select(Item.identity_key)
        .group_by(Item.identity_key)
        .having(or_(func.count(func.distinct(Item.camera_id)) > 1, func.count(Item.track_id) > 1))
    )
    columns = (Item.slot, Item.identity_key, Item.camera_id, Item.track_id)
    return select(*columns).where(Item.identity_key.in_(several))


def _track_codes(
    session: Session, rows: Sequence[Row[int, int, str | None, str | None]], track_gap_s: float
) -> NDArray[np.int64]:
    """Return a number for the track of each item, and -1 where there is none.

    The tracks matter for identities that one camera alone has seen, so others are not computed.
    """
    cameras: dict[int, set[str | None]] = {}
    for row in rows:
        cameras.setdefault(row.identity_key, set()).add(row.camera_id)
    track_ids = {row.track_id for row in rows if len(cameras[row.identity_key] - {None}) < 2}
    track_of: dict[int, int] = {}
    for page in pages(sorted(track_id for track_id in track_ids if track_id is not None)):
        track_of |= find_tracks(session, Item.track_id.in_(page), track_gap_s)
    return np.array([track_of.get(row.slot, -1) for row in rows], np.int64)


def _codes(names: Sequence[str | None]) -> NDArray[np.int64]:
    """Return (N,) codes, the same for the same name, and -1 for None."""
    numbers: dict[str, int] = {}
    codes = [-1 if name is None else numbers.setdefault(name, len(numbers)) for name in names]
    return np.array(codes, np.int64)
