"""Embed items with a version that they have no embedding of, from their stored crops.

It goes page by page, each page its own transaction; "items without an embedding of this version" is the whole
queue, so what was done before a crash is not done again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.orm import Session

from model.data.images import UNLIMITED
from model.embedder import Embedder
from service.errors import CropMissing, NotFinite, ServiceError
from service.jobs.jobs import Stopped
from service.serving.embedding import embed_in_batches, to_half
from service.serving.priority import Priority
from service.store.changes import newest_change
from service.store.database import pages
from service.store.store import Store
from service.store.tables import Embedding, Item
from service.uploads.requests import decode

ITEMS_PER_PAGE = 32
CROPS_AT_ONCE = 2
"""Between so many crops the backfill rests and gives way: a search waits for few of them."""

FEW = 8
"""So many crops are embedded without rest: somebody may wait for them."""

MAX_LAG_S = 1.0
"""How much of its share, lost to others, a backfill may catch up at once."""

Told = Callable[[Session, int], None]
"""Is told, in each page's transaction, how many items the page had."""


class Pace:
    """Lets work take its share of the time that it would take alone, and no more.

    What it loses to others it does not rest for: beside searches it still gets its share, if it can.
    """

    def __init__(self, share: float, stopping: Event) -> None:
        self._share = share
        self._stopping = stopping
        self._fastest_s = float("inf")
        self._due_s = time.monotonic()

    def rest(self, num: int, took_s: float) -> None:
        """Wait after work on `num` crops until the share is kept again."""
        self._fastest_s = min(self._fastest_s, took_s / num)
        moment_s = time.monotonic()
        self._due_s = max(self._due_s, moment_s - MAX_LAG_S) + num * self._fastest_s / self._share
        self._stopping.wait(max(0.0, self._due_s - moment_s))


@dataclass
class Backfill:
    """Makes the embeddings of one version; `missing` has the ids, by slot, of items whose crop is gone.

    It goes through the slots once: what is enrolled meanwhile has greater ones.
    """

    store: Store
    priority: Priority
    embedder: Embedder
    pace: Pace
    missing: dict[int, str] = field(default_factory=dict)
    last: int = 0

    def run(self, tell: Told, only: ColumnElement[bool] | None = None, *, is_resting: bool = True) -> int:
        """Embed what is new and has no embedding, of the items that are meant; return how many that were.

        It keeps to its share of the processor, unless they are few or others wait for it to end.

        Raises:
            Stopped: the process is going down.
            ServiceError: a crop is no image, or its embedding not finite.
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
            embeddings = self._embed(page, is_resting=is_resting and num + len(page) > FEW)
            with self.store.change() as change:
                keep(change.session, self.embedder.version, embeddings)
                tell(change.session, len(page))
            self.last = page[-1].slot
            num += len(page)
        if only is None:
            self.last = max(self.last, newest)
        return num

    def finish(self, session: Session) -> int:
        """Embed what is left in the caller's transaction, alone among all who change the gallery."""
        page = self._page(session, None, limit=None)
        keep(session, self.embedder.version, self._embed(page, is_resting=False))
        return len(page)

    def _page(
        self, session: Session, only: ColumnElement[bool] | None, limit: int | None
    ) -> Sequence["Waiting"]:
        statement = (
            select(Item.slot, Item.id, Item.sha256)
            .where(Item.slot > self.last, ~is_embedded(self.embedder.version))
            .where(true() if only is None else only)
            .order_by(Item.slot)
            .limit(limit)
        )
        return [Waiting(*row) for row in session.execute(statement)]

    def _embed(self, page: Sequence["Waiting"], *, is_resting: bool) -> dict[int, NDArray[np.float16]]:
        """Return the embeddings of the stored crops by slot, but for those that are missing or deleted."""
        embeddings: dict[int, NDArray[np.float16]] = {}
        for start in range(0, len(page), CROPS_AT_ONCE):
            if is_resting:
                self.priority.before_backfill()
            started_s = time.monotonic()
            few = page[start : start + CROPS_AT_ONCE]
            found: list[Waiting] = []
            try:
                made_ND = to_half(embed_in_batches(self.embedder, self._images(few, found)))
            except NotFinite as error:
                raise ServiceError(f"item {found[error.position].id}: {error}") from error
            embeddings |= {item.slot: made_D for item, made_D in zip(found, made_ND, strict=True)}
            if found and is_resting:
                self.pace.rest(len(found), time.monotonic() - started_s)
        return embeddings

    def _images(self, page: Sequence["Waiting"], found: list["Waiting"]) -> Iterator[Image.Image]:
        for item in page:
            try:
                image, _ = decode(self.store.crops.get(item.sha256), UNLIMITED)
            except CropMissing:
                with self.store.read() as session:
                    if session.scalar(select(Item.slot).where(Item.slot == item.slot)) is not None:
                        self.missing[item.slot] = item.id
                continue
            except ServiceError as error:
                raise ServiceError(f"item {item.id}: {error}") from error
            found.append(item)
            yield image


@dataclass(frozen=True)
class Waiting:
    """An item that is to be embedded."""

    slot: int
    id: str
    sha256: str


def keep(session: Session, version: str, embeddings: Mapping[int, NDArray[np.float16]]) -> None:
    """Store embeddings of the items that are still there and have none; alone among those who change them."""
    for page in pages(embeddings):
        wanted = Item.slot.in_(page) & ~is_embedded(version)
        session.add_all(
            Embedding(slot=slot, model_version=version, values=embeddings[slot].tobytes())
            for slot in session.scalars(select(Item.slot).where(wanted))
        )
    session.flush()


def is_embedded(version: str) -> ColumnElement[bool]:
    """Tell items that have an embedding of a version."""
    embedding = select(Embedding.slot).where(Embedding.slot == Item.slot, Embedding.model_version == version)
    return embedding.exists()


def num_left(session: Session, version: str) -> tuple[int, int]:
    """Return how many items there are, and how many of them have no embedding of a version."""
    left = func.count().filter(~is_embedded(version))
    total, num = session.execute(select(func.count(), left).select_from(Item)).one()
    return total, num
