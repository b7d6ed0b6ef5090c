"""The change log: every change of the gallery has a number, and the numbers grow in the order of the commits.

The one row of the table `galleries` has the number of the newest change. A transaction that changes the
gallery locks this row before it reads anything else, and holds the lock until its commit. So the changes of
all processes on a database happen one after the other, their numbers have no gaps, and no number appears
after a larger one.

A sequence or an identity column of PostgreSQL draws its numbers before the commit. A slow transaction could
commit a small number after an index has read past that number, so the index would miss the change.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.store.database import Sessions
from service.store.tables import Change, Gallery, Model, now

ACTIVATIONS = ("activated", "compatible")
"""Kinds of change that need no refresh at the commit. The process that activates a version swaps its own
generation then."""


class Transaction:
    """A transaction that changes the gallery; no two such transactions overlap.

    Attributes:
        session: the session of the transaction.
        changes_items: whether an index has to follow the changes of the transaction.
        adds_job: whether the transaction queues a job.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.changes_items = False
        self.adds_job = False
        self._newest = session.scalars(select(Gallery.newest_change).with_for_update()).one()

    @property
    def newest(self) -> int:
        """Return the number of the newest change, including the changes of this transaction."""
        return self._newest

    def note(self, kind: str, slot: int | None = None) -> int:
        """Add one change to the log and return its number.

        Args:
            kind: one of the kinds that `Change` lists.
            slot: the slot of the item that changed. The slot of an ``added`` item is the number of the
                change.
        """
        self._newest += 1
        self.changes_items |= kind not in ACTIVATIONS
        slot = self._newest if kind == "added" else slot
        self.session.add(Change(sequence=self._newest, kind=kind, slot=slot, at=now()))
        return self._newest

    def finish(self) -> None:
        """Store the number of the newest change, before the commit."""
        self.session.execute(update(Gallery).values(newest_change=self._newest))


@contextmanager
def transaction(sessions: Sessions) -> Iterator[Transaction]:
    """Open a transaction that changes the gallery, and commit unless an exception is raised."""
    with sessions.write.begin() as session:
        change = Transaction(session)
        yield change
        change.finish()


def newest_change(session: Session) -> int:
    """Return the number of the newest committed change."""
    return session.scalars(select(Gallery.newest_change)).one()


class ActiveModel(NamedTuple):
    """The model version that embeds queries, and the version whose embeddings are searched.

    The two differ only while a compatible version embeds queries and the gallery is not embedded by it yet.
    """

    version: str
    gallery_version: str


def active_model(session: Session) -> ActiveModel | None:
    """Return the active model version, or None before the first start.

    Within a `Transaction` no other process can activate a version before the commit.
    """
    row = session.execute(select(Model.version, Model.stand_in).where(Model.state == "active")).one_or_none()
    return None if row is None else ActiveModel(row.version, row.stand_in or row.version)
