"""A replica: the index of one process, which follows the change log of the database.

A search first reads the number of the newest change. If the replica has not seen that change, it reads the
newer entries of the log, then the current rows of the slots in these entries, and makes the index agree with
the rows. A change may be applied twice without harm. So an index may be loaded while the gallery changes, and
brought up to date after that.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from threading import Lock

import numpy as np
import structlog
from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from service.index import DEFAULT_TRACK_GAP_S, GalleryIndex, IndexKind, Rows
from service.store.changes import newest_change
from service.store.tables import Change, Embedding, Item

logger = structlog.get_logger(__name__)

LOG_EVERY_S = 5
ROWS_PER_PAGE = 2_000
CHANGES_PER_PAGE = 5_000
"""Changes that are applied together. One statement names their slots; SQLite takes 32,766 variables."""

ItemRow = Row[int, int, str | None, datetime | None, str | None, bytes]


class Replica:
    """The index of one model version, and the number of the last change that it has seen."""

    def __init__(self, version: str, index: GalleryIndex, sequence: int) -> None:
        self.version = version
        self.index = index
        self.sequence = sequence
        self._last_slot = int(index.slots()[-1]) if len(index) else 0
        self._nothing_erased_to = sequence
        self._lock = Lock()

    @classmethod
    def load(
        cls,
        session: Session,
        version: str,
        embedding_size: int,
        kind: IndexKind = "exact",
        sequence: int | None = None,
        track_gap_s: float = DEFAULT_TRACK_GAP_S,
    ) -> "Replica":
        """Build the index of a model version from the embeddings in the database.

        Args:
            session: a session that reads.
            version: the model version.
            embedding_size: the length D of an embedding.
            kind: the kind of index.
            sequence: the number of the change up to which items are loaded; by default the newest. All these
                items must have an embedding by the version.
            track_gap_s: as for `GalleryIndex`.
        """
        newest = newest_change(session) if sequence is None else sequence
        empty = GalleryIndex(embedding_size, kind, track_gap_s=track_gap_s)
        return cls(version, _fill(empty, session, version, sequence), newest)

    def catch_up(self, session: Session, newest: int) -> None:
        """Apply the changes up to the number `newest`."""
        if newest <= self.sequence:
            return
        with self._lock:
            while self.sequence < newest:
                self._apply_page(session, newest)

    def holds_erased(self, session: Session) -> bool:
        """Tell whether an item was erased after the last change that this replica has seen.

        Such an item is still in the index of a replica that is not kept up to date.
        """
        newest, seen = newest_change(session), max(self.sequence, self._nothing_erased_to)
        since = select(Change.sequence).where(Change.sequence > seen, Change.sequence <= newest)
        if session.scalar(since.where(Change.kind == "erased").limit(1)) is not None:
            return True
        self._nothing_erased_to = newest
        return False

    def _apply_page(self, session: Session, newest: int) -> None:
        statement = (
            select(Change.sequence, Change.kind, Change.slot)
            .where(Change.sequence > self.sequence, Change.sequence <= newest)
            .order_by(Change.sequence)
            .limit(CHANGES_PER_PAGE)
        )
        changes = session.execute(statement).all()
        if not changes:
            logger.error("the change log has a gap, the index is rebuilt; reid check tells more")
            self._rebuild(session)
            self.sequence = newest
            return
        kinds = {kind for _, kind, _ in changes}
        if "rebuilt" in kinds:
            self._rebuild(session)
        slots = sorted({slot for _, _, slot in changes if slot is not None})
        alive = session.execute(_items(self.version).where(Item.slot.in_(slots))).all()
        gone = sorted(set(slots) - {row[0] for row in alive})
        if "erased" in kinds:
            self.index.erase(gone)
        else:
            self.index.delete(gone)
        if updated := [row for row in alive if row[0] <= self._last_slot]:
            known, identity_keys, camera_ids, captured_ats, track_ids, _ = zip(*updated, strict=True)
            self.index.update(known, identity_keys, camera_ids, captured_ats, track_ids)
        if added := [row for row in alive if row[0] > self._last_slot]:
            self.index.add(_rows(added, self.index.embedding_size))
            self._last_slot = added[-1][0]
        last = changes[-1][0]
        if "activated" in kinds and not self._is_whole(session, last):
            self._rebuild(session)
        self.sequence = last

    def _is_whole(self, session: Session, last: int) -> bool:
        """Tell whether the index has every embedded item up to the slot `last`.

        The check is needed because a backfill adds embeddings without an entry in the log.
        """
        embedded = select(Embedding.slot).where(Embedding.model_version == self.version)
        slots = session.scalars(embedded.where(Embedding.slot <= last).order_by(Embedding.slot))
        held = self.index.slots()
        return np.array_equal(np.fromiter(slots, np.int64), held[held <= last])

    def _rebuild(self, session: Session) -> None:
        """Replace the index by one that is built from the database."""
        old = self.index
        empty = GalleryIndex(old.embedding_size, old.kind, track_gap_s=old.track_gap_s)
        index = _fill(empty, session, self.version)
        self.index, self._last_slot = index, int(index.slots()[-1]) if len(index) else 0
        old.close()


def _fill(index: GalleryIndex, session: Session, version: str, last_slot: int | None = None) -> GalleryIndex:
    """Add the embedded items of a model version up to a slot, and return the index."""
    statement = _items(version).execution_options(yield_per=ROWS_PER_PAGE)
    if last_slot is not None:
        statement = statement.where(Item.slot <= last_slot)
    logged_s = time.monotonic()
    for page in session.execute(statement).partitions():
        index.add(_rows(page, index.embedding_size), has_tracks=False)
        if time.monotonic() - logged_s > LOG_EVERY_S:
            logged_s = time.monotonic()
            logger.info("building the index", items=len(index))
    index.find_tracks()
    return index


def _items(version: str) -> Select[int, int, str | None, datetime | None, str | None, bytes]:
    """Select the columns of the index for the items that have an embedding of this version."""
    return (
        select(
            Item.slot, Item.identity_key, Item.camera_id, Item.captured_at, Item.track_id, Embedding.values
        )
        .join(Embedding, Embedding.slot == Item.slot)
        .where(Embedding.model_version == version)
        .order_by(Item.slot)
    )


def _rows(page: Sequence[ItemRow], embedding_size: int) -> Rows:
    """Return rows for the index; an item with a damaged embedding is left out and logged."""
    sized = [row for row in page if len(row[5]) == 2 * embedding_size]
    embeddings_ND = np.frombuffer(b"".join(row[5] for row in sized), "<f2").reshape(-1, embedding_size)
    is_finite = np.isfinite(embeddings_ND).all(axis=1)
    if num_damaged := len(page) - int(is_finite.sum()):
        logger.error("damaged embeddings are left out; reid check --repair remakes them", items=num_damaged)
    good = [row for row, is_good in zip(sized, is_finite.tolist(), strict=True) if is_good]
    return Rows(
        slots=[row[0] for row in good],
        identity_keys=[row[1] for row in good],
        camera_ids=[row[2] for row in good],
        captured_ats=[row[3] for row in good],
        track_ids=[row[4] for row in good],
        embeddings_ND=embeddings_ND[is_finite],
    )
