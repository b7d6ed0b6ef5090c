"""Backfill: embed the items that have no embedding of a model version, from their stored crops.

A backfill works page by page, and commits each page. The database tells which items still have no embedding,
so after a crash only these items are embedded.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.orm import Session

from model.embedder import Embedder
from service import metrics
from service.errors import ImageError, NotFinite, ServiceError
from service.jobs.jobs import Stopped
from service.serving.embedding import to_half
from service.serving.priority import Priority
from service.serving.stored import CROPS_AT_ONCE, embed_stored
from service.store.changes import newest_change
from service.store.database import pages
from service.store.store import Store
from service.store.tables import Embedding, Item

ITEMS_PER_PAGE = 32

MAX_UNTHROTTLED = 8
"""A backfill of at most this many crops does not rest, because something waits for it: a rollback, or the
enrolments that a cut-over holds back."""

MAX_LAG_S = 1.0
"""The most seconds of delay that a backfill makes up for after searches have slowed it down."""

Advance = Callable[[Session, int], None]
"""Records progress: called in the transaction of each page, with the number of items on the page."""


class Pace:
    """Slows work down to a share of its full speed by rests.

    The full speed is that of the fastest batch so far. If searches slow the work down, the rests become
    shorter by the time lost, so the work keeps its share beside searches.

    Args:
        share: the share of the full speed, above 0 and at most 1.
        stopping: ends every rest when it is set.
    """

    def __init__(self, share: float, stopping: Event) -> None:
        self._share = share
        self._stopping = stopping
        self._fastest_s = float("inf")
        self._due_s = time.monotonic()

    def rest(self, num: int, took_s: float) -> None:
        """Rest after work on `num` crops, which took `took_s` seconds, until the share is kept."""
        self._fastest_s = min(self._fastest_s, took_s / num)
        moment_s = time.monotonic()
        self._due_s = max(self._due_s, moment_s - MAX_LAG_S) + num * self._fastest_s / self._share
        self._stopping.wait(max(0.0, self._due_s - moment_s))


@dataclass(frozen=True)
class PendingItem:
    """An item that has no embedding by the version yet."""

    slot: int
    id: str
    sha256: str


@dataclass
class Backfill:
    """Makes the embeddings of one model version.

    A backfill goes through the slots once, because an item that is enrolled later has a greater slot.

    Attributes:
        store: the items and their crops.
        priority: decides which work embeds next.
        embedder: the network of the version.
        pace: the share of the processor.
        missing: slot -> id of each item whose crop is gone.
        last: the last slot that the backfill has passed.
    """

    store: Store
    priority: Priority
    embedder: Embedder
    pace: Pace
    missing: dict[int, str] = field(default_factory=dict)
    last: int = 0

    def run(
        self, advance: Advance, only: ColumnElement[bool] | None = None, *, is_resting: bool = True
    ) -> int:
        """Embed the items after `last` that have no embedding, and return their number.

        Args:
            advance: records the progress.
            only: a condition that the items must meet; by default all items are embedded.
            is_resting: whether to keep to the pace. A run of at most `MAX_UNTHROTTLED` crops never rests.

        Raises:
            Stopped: the process is shutting down.
            StorageFull: there is no room for more embeddings; the pages before are kept.
            ServiceError: a crop is not an image, or an embedding is not finite.
        """
        num = 0
        while True:
            with self.store.read() as session:
                newest = newest_change(session)
                page = self._page(session, only, ITEMS_PER_PAGE)
            if not page:
                break
            if self.store.stopping.is_set():
                raise Stopped
            self.store.room.require()
            embeddings = self._embed(page, is_resting=is_resting and num + len(page) > MAX_UNTHROTTLED)
            with self.store.change() as change:
                add_embeddings(change.session, self.embedder.version, embeddings)
                advance(change.session, len(page))
            self.last = page[-1].slot
            num += len(page)
        if only is None:
            self.last = max(self.last, newest)
        return num

    def finish(self, session: Session) -> int:
        """Embed all remaining items in a transaction that lets no other change of the gallery happen."""
        page = self._page(session, None, limit=None)
        add_embeddings(session, self.embedder.version, self._embed(page, is_resting=False))
        return len(page)

    def _page(
        self, session: Session, only: ColumnElement[bool] | None, limit: int | None
    ) -> Sequence[PendingItem]:
        statement = (
            select(Item.slot, Item.id, Item.sha256)
            .where(Item.slot > self.last, ~is_embedded(self.embedder.version))
            .where(true() if only is None else only)
            .order_by(Item.slot)
            .limit(limit)
        )
        return [PendingItem(*row) for row in session.execute(statement)]

    def _embed(self, page: Sequence[PendingItem], *, is_resting: bool) -> dict[int, NDArray[np.float16]]:
        """Return slot -> embedding, without items whose crop is gone."""
        embeddings: dict[int, NDArray[np.float16]] = {}
        for start in range(0, len(page), CROPS_AT_ONCE):
            if is_resting:
                self.priority.before_backfill()
            started_s = time.monotonic()
            items = page[start : start + CROPS_AT_ONCE]
            made = self._embed_few(items)
            embeddings |= made
            if made and is_resting:
                self.pace.rest(len(made), time.monotonic() - started_s)
        return embeddings

    def _embed_few(self, items: Sequence[PendingItem]) -> dict[int, NDArray[np.float16]]:
        try:
            made = embed_stored(self.store, self.embedder, {item.slot: item.sha256 for item in items})
        except (NotFinite, ImageError) as error:
            detail = error.detail if isinstance(error, ImageError) else str(error)
            raise ServiceError(f"item {items[error.position].id}: {detail}") from error
        for item in items:
            if item.slot not in made and self._is_alive(item.slot):
                self.missing[item.slot] = item.id
        metrics.BACKFILLED.inc(len(made))
        return {slot: to_half(made_D) for slot, made_D in made.items()}

    def _is_alive(self, slot: int) -> bool:
        with self.store.read() as session:
            return session.scalar(select(Item.slot).where(Item.slot == slot)) is not None


def add_embeddings(session: Session, version: str, embeddings: Mapping[int, NDArray[np.float16]]) -> None:
    """Store the embeddings of items that still exist and have no embedding by this version.

    Args:
        session: of a transaction that lets no other change of the gallery happen.
        version: the model version that made the embeddings.
        embeddings: slot -> embedding (D,).
    """
    for page in pages(embeddings):
        lacking = Item.slot.in_(page) & ~is_embedded(version)
        session.add_all(
            Embedding(slot=slot, model_version=version, values=embeddings[slot].tobytes())
            for slot in session.scalars(select(Item.slot).where(lacking))
        )
    session.flush()


def is_embedded(version: str) -> ColumnElement[bool]:
    """Return the SQL condition that an item has an embedding by this version."""
    embedding = select(Embedding.slot).where(Embedding.slot == Item.slot, Embedding.model_version == version)
    return embedding.exists()


def count_left(session: Session, version: str) -> tuple[int, int]:
    """Return the number of items, and the number of items without an embedding by this version."""
    left = func.count().filter(~is_embedded(version))
    total, num = session.execute(select(func.count(), left).select_from(Item)).one()
    return total, num
