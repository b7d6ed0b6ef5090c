"""What requests share: the database, the crops and the current Generation.

A request takes `serving.current()` once and works with it to its end. A swap replaces that one reference, so
the embedder and the index that a request sees always belong together. What other processes on the same
database have changed, their swaps too, comes in by `refresh`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition, Event, Lock

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from model.checkpoint import load_checkpoint
from model.data.images import Limits
from model.embedder import Embedder
from model.errors import ModelError
from model.trial import try_out
from service.errors import NetworkLost, NotFinite, NotReady, ServiceError, UnfitCheckpoint
from service.index.index import GalleryIndex
from service.serving.replica import Replica
from service.serving.snapshots import Snapshots
from service.serving.thresholds import Decisions, find_decisions
from service.settings import Settings
from service.store.changes import Changing, Served, changing, served
from service.store.crops import CropStore
from service.store.database import Sessions
from service.store.tables import Gallery, Model

logger = structlog.get_logger(__name__)

GIVE_WAY_S = 0.2
"""A backfill gives way to searches for so long at most: it must get on under any load..."""

ENROLMENT_GIVES_WAY_S = 0.1
"""... and an enrolment for so long, for which cameras wait."""

MAX_BATCH = 16
MAX_BATCH_PIXELS = 4_000_000
"""A batch ends here, so that a request of 64 huge images never holds more than one of them decoded."""

EVALUATED_AT = Model.evaluation["evaluated_at"].as_string().label("evaluated_at")
NEWEST = select(Gallery.newest_change, Model.version, Model.stand_in, EVALUATED_AT).join(
    Model, Model.state == "active"
)
"""Asked before every search: one row of each table."""


@dataclass(frozen=True)
class Generation:
    """One model version in service: what `embedder` makes is searched in `index`, and in no other.

    The index holds its embeddings, or for a time those of a version that it was trained to be compatible
    with; then `stand_in` is the network that makes those.
    `decisions` say what its scores mean.
    """

    embedder: Embedder
    replica: Replica
    decisions: Decisions
    stand_in: Embedder | None = None

    @property
    def version(self) -> str:
        """Return the model version that embeds queries."""
        return self.embedder.version

    @property
    def searched_embedder(self) -> Embedder:
        """Return the network that makes the embeddings of the index."""
        return self.stand_in or self.embedder

    @property
    def served(self) -> Served:
        """Return the versions by name."""
        return Served(self.version, self.stand_in.version if self.stand_in else None)

    @property
    def index(self) -> GalleryIndex:
        """Return the index to search; `Serving.refresh` brings it up to date."""
        return self.replica.index


class Serving:
    """Holds what requests share; `enrolling` is held by the one enrolment at a time that embeds or stores.

    So a search never waits for several enrolments, which share the cores with it. `has_database` says that
    the tables are there, which may be used without a generation. `has_job` is set when a request has written
    down a job, so that it begins at once.
    """

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        self.settings = settings
        self.sessions = sessions
        self.crops = CropStore(settings.crops_dir)
        self.snapshots = Snapshots(settings.snapshots_dir)
        self.limits = Limits(settings.max_upload_bytes, settings.max_pixels, settings.min_side)
        self.enrolling = Lock()
        self.stopping = Event()
        self.has_job = Event()
        self.has_database = False
        self._searching = Condition()
        self._num_searching = 0
        self._turn = Lock()
        self._swap = Lock()
        self._generation: Generation | None = None
        self._former: Embedder | None = None
        self._former_replica: Replica | None = None
        self._failure: str | None = None

    def current(self) -> Generation:
        """Return the generation to work with; take it once a request.

        Raises:
            NotReady: while the first one is loading, or if that has failed.
        """
        generation = self._generation
        if generation is None:
            raise NotReady(self._failure or "the network and the index are being loaded; try again soon")
        return generation

    def replace(self, generation: Generation) -> None:
        """Let requests that begin from now on use this generation.

        The network and the index before it stay in memory, for a rollback.
        """
        before, self._generation = self._generation, generation
        if before is not None and before.version != generation.version:
            self._former = before.embedder
        if before is not None and before.replica is not generation.replica:
            self._former_replica = before.replica

    def loaded(self) -> dict[str, Embedder]:
        """Return the networks that are loaded, by version: those in service, and the one before."""
        generation = self._generation
        known = [self._former, *([generation.embedder, generation.stand_in] if generation else [])]
        return {embedder.version: embedder for embedder in known if embedder is not None}

    def take_former_replica(self, version: str | None = None) -> Replica | None:
        """Give the index before this one to the caller, if it is of that version; else let go of it.

        It has seen no change since it was in service.
        """
        replica, self._former_replica = self._former_replica, None
        if replica is None or replica.version == version:
            return replica
        replica.index.close()
        return None

    def let_go_of_erased(self) -> None:
        """Let go of the index before this one if something was erased since; every half second or so."""
        replica = self._former_replica
        if replica is None:
            return
        with self.sessions.read() as session:
            holds_erased = replica.holds_erased(session)
        if holds_erased:
            self.take_former_replica()

    @contextmanager
    def changing(self) -> Iterator[Changing]:
        """Open a transaction that changes the gallery, and commit it; `refresh` then brings it to the index.

        It is alone among all processes on the database. Threads of one process queue up here first, because
        SQLite lets whoever waits for it poll.
        """
        with self._turn, changing(self.sessions) as change:
            yield change

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Let what can wait give way to the search that the caller embeds."""
        with self._searching:
            self._num_searching += 1
        try:
            yield
        finally:
            with self._searching:
                self._num_searching -= 1
                self._searching.notify_all()

    def give_way(self, at_most_s: float = GIVE_WAY_S) -> None:
        """Wait while searches are embedded, but not for ever."""
        with self._searching:
            self._searching.wait_for(lambda: not self._num_searching, at_most_s)

    @contextmanager
    def turn_to_enroll(self) -> Iterator[None]:
        """Wait until no other enrolment of this process embeds or stores, and give way to searches."""
        with self.enrolling:
            self.give_way(ENROLMENT_GIVES_WAY_S)
            yield

    @contextmanager
    def holding_back(self) -> Iterator[None]:
        """Let no other thread of this process change the gallery meanwhile."""
        with self._turn:
            yield

    @contextmanager
    def swapping(self) -> Iterator[None]:
        """Hold back `refresh`, while the caller makes a version active and then replaces the generation."""
        with self._swap:
            yield

    def refresh(self) -> Generation:
        """Apply what any process has changed before now, and return the generation that is active.

        Raises:
            NotReady: while the first generation is loading, or if another process has activated a version
                that cannot be loaded here.
        """
        while True:
            generation = self.current()
            with self.sessions.read() as session:
                newest, version, stand_in, evaluated_at = session.execute(NEWEST).one()
                if Served(version, stand_in) == generation.served:
                    if evaluated_at != generation.decisions.evaluated_at:
                        generation = self._follow_evaluation(generation, session)
                    generation.replica.catch_up(session, newest)
                    return generation
            self._follow_swap(generation)

    def _follow_evaluation(self, generation: Generation, session: Session) -> Generation:
        """Take over what an evaluation has found of the version in service."""
        decisions = find_decisions(session, generation.version, self.settings.target_fmr)
        judged = replace(generation, decisions=decisions)
        with self._swap:
            if self._generation is generation:
                self._generation = judged
        return judged

    def _follow_swap(self, generation: Generation) -> None:
        """Load what is active by now, unless another thread has done so."""
        with self._swap:
            if self._generation is not generation:
                return
            try:
                self.replace(load_active(self))
            except ServiceError as error:
                raise NotReady(f"another process activated what cannot be served here: {error}") from error

    def close(self) -> None:
        """Stop what the index does in the background, wait until it has, and leave a snapshot."""
        self.take_former_replica()
        if self._generation is not None:
            self._generation.index.close()
            self.save_snapshot(is_last=True)

    def save_snapshot(self, *, is_last: bool = False) -> None:
        """Write a snapshot of the index if one is due, or if this is the last occasion and it has changed."""
        replica = self.current().replica
        is_due = self.snapshots.changes_since(replica) > 0 if is_last else self.snapshots.is_due(replica)
        if not is_due:
            return
        try:
            with self.snapshots.alone():
                with self.sessions.read() as session:
                    gallery_id = session.scalars(select(Gallery.id)).one()
                    newest, version, stand_in, _ = session.execute(NEWEST).one()
                    if Served(version, stand_in).searched != replica.version:
                        return
                    replica.catch_up(session, newest)  # what is erased by now must not be written
                self.snapshots.save(gallery_id, replica)
        except (OSError, SQLAlchemyError) as error:
            logger.warning("no snapshot of the index was written", reason=str(error))

    def fail(self, reason: str) -> bool:
        """Say why there is no generation, and tell whether that is new."""
        is_new, self._failure = reason != self._failure, reason
        return is_new


def load_embedder(path: Path, settings: Settings) -> Embedder:
    """Load a network and try it on a few images.

    Raises:
        UnfitCheckpoint: if the file is no network that we can serve, or its embeddings are of no use.
    """
    try:
        checkpoint = load_checkpoint(path)
        embedder = Embedder(checkpoint, settings.device, settings.precision, cache_dir=settings.cache_dir)
        try_out(embedder)
    except ModelError as error:
        raise UnfitCheckpoint(str(error)) from error
    return embedder


def embed_in_batches(
    embedder: Embedder,
    images: Iterable[Image.Image],
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> NDArray[np.float32]:
    """Embed images as they come, holding few of them at a time: (N, D), L2-normalised.

    Each batch waits for its turn.

    Raises:
        NotFinite: if the network makes an embedding that is not.
    """
    batch: list[Image.Image] = []
    parts = []
    for image in images:
        batch.append(image)
        if len(batch) == MAX_BATCH or sum(i.width * i.height for i in batch) >= MAX_BATCH_PIXELS:
            with turn():
                parts.append(embedder.embed(batch))
            batch = []
    with turn():
        parts.append(embedder.embed(batch))
    embeddings_ND = np.concatenate(parts)
    is_finite_N = np.isfinite(embeddings_ND).all(axis=1)
    if not is_finite_N.all():
        raise NotFinite(embedder.version, int(np.argmin(is_finite_N)))
    return embeddings_ND


def to_half(embeddings_ND: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round embeddings to what is stored and indexed: float16, little endian."""
    return np.ascontiguousarray(embeddings_ND, "<f2")


def load_active(serving: Serving) -> Generation:
    """Load the active network, if it is not loaded, and the index.

    Raises:
        NetworkLost: the file of the active network is gone, has changed, or is no network that we can serve.
        ServiceError: none is active.
    """
    with serving.sessions.read() as session:
        active = served(session)
    if active is None:
        raise ServiceError("no model version is active in this database; the first start activates one")
    embedders = serving.loaded()
    for version in {active.version, active.searched} - embedders.keys():
        try:
            embedders[version] = load_registered(serving, version)
        except ServiceError as error:
            raise NetworkLost(version, str(error)) from error
    version, embedder = active.searched, embedders[active.searched]
    with serving.sessions.read() as session:
        gallery_id, newest = session.execute(select(Gallery.id, Gallery.newest_change)).one()
        kind = serving.settings.index
        replica = serving.take_former_replica(version)
        if replica is None:
            replica = serving.snapshots.load(gallery_id, version, newest, kind)
        if replica is None:
            replica = Replica.load(session, version, embedder.embedding_size, kind)
        replica.catch_up(session, newest)
        decisions = find_decisions(session, active.version, serving.settings.target_fmr)
    stand_in = embedder if active.stand_in else None
    return Generation(embedders[active.version], replica, decisions, stand_in)


def load_registered(serving: Serving, version: str) -> Embedder:
    """Load the network of a registered version.

    Raises:
        ServiceError: if its file is gone, has changed, or is no network that we can serve.
    """
    with serving.sessions.read() as session:
        filename = session.scalars(select(Model.filename).where(Model.version == version)).one()
    embedder = load_embedder(serving.settings.models_dir / filename, serving.settings)
    if embedder.version != version:
        raise ServiceError(f"{filename} has changed on the disk: its version is now {embedder.version}")
    return embedder
