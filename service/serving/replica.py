"""An index that follows the change log: this process's copy of what the database says.

A search first asks for the newest number. If there is one that the index has not seen, the rows of the slots
that the log names since then are read, as they are by now, and the index is made to agree with them. To do
that twice does no harm, so an index may be loaded while the gallery changes and brought up to date after.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from threading import Lock

import numpy as np
import structlog
from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from service.index import GalleryIndex, IndexKind, Rows
from service.store.changes import newest_change
from service.store.tables import Change, Embedding, Item

logger = structlog.get_logger(__name__)

TELL_EVERY_S = 5
ROWS_PER_PAGE = 2_000
CHANGES_PER_PAGE = 5_000
"""SQLite takes 32,766 variables in a statement, and every change names a slot."""

ItemRow = Row[int, int, str | None, datetime | None, str | None, bytes]


class Replica:
    """The index of one model version, and the number of the last change that it has seen."""

    def __init__(self, version: str, index: GalleryIndex, sequence: int) -> None:
        self.version = version
        self.index = index
        self.sequence = sequence
        self._last_slot = int(index.slots()[-1]) if len(index) else 0
        self._is_clean_to = sequence
        self._lock = Lock()

    @classmethod
    def load(
        cls,
        session: Session,
        version: str,
        embedding_size: int,
        kind: IndexKind = "exact",
        sequence: int | None = None,
    ) -> "Replica":
        """Build the index of a model version from the embeddings in the database.

        Args:
            session: reads.
            version: of the embeddings.
            embedding_size: of the embeddings.
            kind: of the index.
            sequence: the number up to which all items have an embedding, and are taken; by default all have.
        """
        newest = newest_change(session) if sequence is None else sequence
        return cls(version, _build(session, version, embedding_size, kind, sequence), newest)

    def catch_up(self, session: Session, newest: int) -> None:
        """Apply the change log as far as the number `newest`."""
        if newest <= self.sequence:
            return
        with self._lock:
            while self.sequence < newest:
                self._apply_page(session, newest)

    def holds_erased(self, session: Session) -> bool:
        """Tell whether anything was erased after what this index, which is not kept up to date, has seen."""
        newest, seen = newest_change(session), max(self.sequence, self._is_clean_to)
        since = select(Change.sequence).where(Change.sequence > seen, Change.sequence <= newest)
        if session.scalar(since.where(Change.kind == "erased").limit(1)) is not None:
            return True
        self._is_clean_to = newest
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
            logger.error("the change log has a gap, the index is built anew; reid check tells more")
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
        """Tell whether the index has what it should up to a slot; the log does not tell of all backfills."""
        embedded = select(Embedding.slot).where(Embedding.model_version == self.version)
        slots = session.scalars(embedded.where(Embedding.slot <= last).order_by(Embedding.slot))
        held = self.index.slots()
        return np.array_equal(np.fromiter(slots, np.int64), held[held <= last])

    def _rebuild(self, session: Session) -> None:
        """Build the index anew: embeddings that it has were made anew."""
        old, index = self.index, _build(session, self.version, self.index.embedding_size, self.index.kind)
        self.index, self._last_slot = index, int(index.slots()[-1]) if len(index) else 0
        old.close()


def _build(
    session: Session, version: str, embedding_size: int, kind: IndexKind, last_slot: int | None = None
) -> GalleryIndex:
    index = GalleryIndex(embedding_size, kind)
    statement = _items(version).execution_options(yield_per=ROWS_PER_PAGE)
    if last_slot is not None:
        statement = statement.where(Item.slot <= last_slot)
    told_s = time.monotonic()
    for page in session.execute(statement).partitions():
        index.add(_rows(page, embedding_size))
        if time.monotonic() - told_s > TELL_EVERY_S:
            told_s = time.monotonic()
            logger.info("building the index", items=len(index))
    return index


def _items(version: str) -> Select[int, int, str | None, datetime | None, str | None, bytes]:
    """Return what the index wants to know of the items that have an embedding of this version."""
    return (
        select(
            Item.slot, Item.identity_key, Item.camera_id, Item.captured_at, Item.track_id, Embedding.values
        )
        .join(Embedding, Embedding.slot == Item.slot)
        .where(Embedding.model_version == version)
        .order_by(Item.slot)
    )


def _rows(page: Sequence[ItemRow], embedding_size: int) -> Rows:
    """Return rows for the index; without those whose embedding is spoilt, with a line in the log."""
    sized = [row for row in page if len(row[5]) == 2 * embedding_size]
    embeddings_ND = np.frombuffer(b"".join(row[5] for row in sized), "<f2").reshape(-1, embedding_size)
    is_finite = np.isfinite(embeddings_ND).all(axis=1)
    if num_spoilt := len(page) - int(is_finite.sum()):
        logger.error("spoilt embeddings are left out; reid check --repair makes them anew", items=num_spoilt)
    good = [row for row, is_good in zip(sized, is_finite.tolist(), strict=True) if is_good]
    return Rows(
        slots=[row[0] for row in good],
        identity_keys=[row[1] for row in good],
        camera_ids=[row[2] for row in good],
        captured_ats=[row[3] for row in good],
        track_ids=[row[4] for row in good],
        embeddings_ND=embeddings_ND[is_finite],
    )
