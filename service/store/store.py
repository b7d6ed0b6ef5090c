"""The database and the crops of one gallery, and the transaction by which both change."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from threading import Event, Lock

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service import metrics
from service.errors import ServiceError
from service.settings import Settings
from service.store.changes import Transaction, transaction
from service.store.clock import Clock
from service.store.crops import CropStore
from service.store.database import Sessions
from service.store.database_file import file_of
from service.store.decoding import DecodingBudget
from service.store.doomed import needed_crops
from service.store.folder import DataFolder
from service.store.reserve import Reserve
from service.store.room import Room
from service.store.tables import DoomedCrop

CROPS_AT_ONCE = 500


def _no_index() -> None:
    """Do nothing, because this process keeps no index."""


def _no_audit(_session: Session) -> AbstractContextManager[None]:
    """Write nothing, because this process audits nothing."""
    return nullcontext()


class Store:
    """The database, the crops on the disk, and the settings of one gallery, in one process.

    Attributes:
        settings: the settings of this process.
        sessions: makes the sessions of the database.
        crops: the bytes of the crops, by their SHA-256.
        decoding: the memory for decoded images, which all threads of this process share.
        reserve: the room that deletions may use on a full disk.
        room: the room that what is added to the gallery may take.
        folder: the data folder, which belongs to one gallery.
        clock: the clocks of this process.
        is_open: whether the tables are up to date, so that requests may use them.
        stopping: set when the process shuts down; long work then raises `Stopped` or returns.
        has_job: set when a job has been queued, so that the job begins at once.
        has_expiry: set when an expiry was confirmed, so that the expiry begins at once.
        sealing: a context around what each transaction does, up to its commit; `Audit` sets it.
        follow: brings the index of this process up to date; `Serving` sets it.
    """

    def __init__(self, settings: Settings, sessions: Sessions, clock: Clock | None = None) -> None:
        self.settings = settings
        self.sessions = sessions
        self.crops = CropStore(settings.crops_dir)
        self.decoding = DecodingBudget(settings.max_decoding_bytes)
        self.folder = DataFolder(settings.data_dir)
        file = file_of(sessions.engine)
        self.reserve = Reserve(None if file is None else file.path)
        self.room = Room(settings, self.crops, sessions.engine)
        self.clock = clock or Clock()
        self.is_open = False
        self.stopping = Event()
        self.has_job = Event()
        self.has_expiry = Event()
        self.follow: Callable[[], object] = _no_index
        self.sealing: Callable[[Session], AbstractContextManager[None]] = _no_audit
        self._turn = Lock()

    def read(self) -> Session:
        """Return a session that reads; use it as a context manager."""
        return self.sessions.read()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction on tables that no index follows, such as jobs; leaving it commits."""
        with self.sessions.write.begin() as session, self.sealing(session):
            yield session

    @contextmanager
    def change(self, *, makes_room: bool = False) -> Iterator[Transaction]:
        """Open a transaction that changes the gallery; leaving it commits and runs the after-commit work.

        With `makes_room` the transaction deletes items or embeddings, and may use the reserve of a full disk.

        No other transaction on the database, of any process, changes the gallery at the same time. The
        threads of one process queue here, because SQLite makes a waiting writer poll.

        After the commit doomed crops are deleted, the index is brought up to date, and a new job begins.
        Errors of the after-commit work are swallowed, because the change is committed: a background task
        deletes the crops later, and every search refreshes the index.
        """
        if makes_room:
            self.reserve.release_if_full()
        with metrics.DATABASE_S.time(), self._alone() as change:
            yield change
        with suppress(ServiceError, SQLAlchemyError, OSError):
            self.purge_doomed()
        if change.changes_items:
            with suppress(ServiceError, SQLAlchemyError):
                self.follow()
        if change.adds_job:
            self.has_job.set()

    @contextmanager
    def hold_back(self) -> Iterator[None]:
        """Let no other thread of this process change the gallery until the context ends."""
        with self._turn:
            yield

    def purge_doomed(self) -> None:
        """Delete the bytes of doomed crops, except for crops that an item or a job needs again."""
        while True:
            with self.read() as session:
                if session.scalar(select(DoomedCrop.sha256).limit(1)) is None:
                    return
            with self._alone() as change:
                doomed = change.session.scalars(select(DoomedCrop).limit(CROPS_AT_ONCE)).all()
                needed = needed_crops(change.session, [crop.sha256 for crop in doomed])
                for crop in doomed:
                    if crop.sha256 not in needed:
                        self.crops.delete(crop.sha256)
                    change.session.delete(crop)

    @contextmanager
    def _alone(self) -> Iterator[Transaction]:
        with self._turn:
            self.folder.check()
            with transaction(self.sessions) as change, self.sealing(change.session):
                yield change
