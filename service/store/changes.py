"""The change log: who changes the gallery takes the next number, in the order of the commits.

There is one row that says which number is the newest. A change locks it before it reads anything else and
lets go with its commit, so changes of all processes on a database come one after the other, numbers have no
gaps, and none appears after a later one. A sequence or an identity column of PostgreSQL would not do: its
numbers are drawn before the commit; a slow transaction commits a smaller one late, past which others are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.store.database import Sessions
from service.store.tables import Change, Gallery, Model, now

ACTIVATIONS = ("activated", "compatible")
"""Changes that no index follows at the commit: the process that activates a version swaps by itself."""


class Transaction:
    """A transaction that changes the gallery, alone among all that do.

    Attributes:
        session: the session of the transaction.
        changes_items: whether an index has to follow what the transaction has noted.
        adds_job: whether the transaction queues a job.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.changes_items = False
        self.adds_job = False
        self._newest = session.scalars(select(Gallery.newest_change).with_for_update()).one()

    @property
    def newest(self) -> int:
        """Return the number of the newest change, the ones of this transaction included."""
        return self._newest

    def note(self, kind: str, slot: int | None = None) -> int:
        """Write down one change and return its number; what was ``added`` is named by it."""
        self._newest += 1
        self.changes_items |= kind not in ACTIVATIONS
        slot = self._newest if kind == "added" else slot
        self.session.add(Change(sequence=self._newest, kind=kind, slot=slot, at=now()))
        return self._newest

    def finish(self) -> None:
        """Say how far the log goes; before the commit."""
        self.session.execute(update(Gallery).values(newest_change=self._newest))


@contextmanager
def transaction(sessions: Sessions) -> Iterator[Transaction]:
    """Open a transaction that changes the gallery, and commit it unless there is an exception."""
    with sessions.write.begin() as session:
        change = Transaction(session)
        yield change
        change.finish()


def newest_change(session: Session) -> int:
    """Return the number of the newest change that is committed."""
    return session.scalars(select(Gallery.newest_change)).one()


class ActiveModel(NamedTuple):
    """The model version that embeds queries, and the version whose embeddings are searched.

    The two differ only while a compatible version is in service and the gallery is not embedded by it yet.
    """

    version: str
    gallery_version: str


def active_model(session: Session) -> ActiveModel | None:
    """Return the active model version, or None before the first start; a change keeps it as it is."""
    row = session.execute(select(Model.version, Model.stand_in).where(Model.state == "active")).one_or_none()
    return None if row is None else ActiveModel(row.version, row.stand_in or row.version)
