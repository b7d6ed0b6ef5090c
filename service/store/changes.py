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


class Changing:
    """A transaction that changes the gallery, alone among all that do; `session` is its session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._newest = session.scalars(select(Gallery.newest_change).with_for_update()).one()

    @property
    def newest(self) -> int:
        """Return the number of the newest change, the ones of this transaction included."""
        return self._newest

    def note(self, kind: str, slot: int | None = None) -> int:
        """Write down one change and return its number; what was ``added`` is named by it."""
        self._newest += 1
        slot = self._newest if kind == "added" else slot
        self.session.add(Change(sequence=self._newest, kind=kind, slot=slot, at=now()))
        return self._newest

    def finish(self) -> None:
        """Say how far the log goes; before the commit."""
        self.session.execute(update(Gallery).values(newest_change=self._newest))


@contextmanager
def changing(sessions: Sessions) -> Iterator[Changing]:
    """Open a transaction that changes the gallery, and commit it unless there is an exception."""
    with sessions.write.begin() as session:
        change = Changing(session)
        yield change
        change.finish()


def newest_change(session: Session) -> int:
    """Return the number of the newest change that is committed."""
    return session.scalars(select(Gallery.newest_change)).one()


class Served(NamedTuple):
    """The version that is active, and the one whose embeddings are searched in its stead, if there is one."""

    version: str
    stand_in: str | None

    @property
    def searched(self) -> str:
        """Return the version whose embeddings are searched."""
        return self.stand_in or self.version


def served(session: Session) -> Served | None:
    """Return what is active, if anything is; it stays so while a change is under way."""
    row = session.execute(select(Model.version, Model.stand_in).where(Model.state == "active")).one_or_none()
    return None if row is None else Served(*row)
