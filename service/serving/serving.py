"""The generation in service: its swap, its rollback, and its refresh after changes of any process.

A request takes `serving.current()` once and works with that generation to its end. A swap replaces one
reference, so the network and the index that a request sees always belong together.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from model.data.images import Limits
from model.embedder import Embedder
from service import metrics
from service.errors import NetworkLost, NotReady, ServiceError, StorageFull
from service.serving.embedding import load_registered
from service.serving.generation import Generation
from service.serving.priority import Priority
from service.serving.replica import Replica
from service.serving.snapshots import Snapshots
from service.serving.thresholds import find_thresholds
from service.store.changes import ActiveModel, active_model
from service.store.store import Store
from service.store.tables import Gallery, Model

logger = structlog.get_logger(__name__)

EVALUATED_AT = Model.evaluation["evaluated_at"].as_string().label("evaluated_at")
NEWEST = select(Gallery.newest_change, Model.version, Model.stand_in, EVALUATED_AT).join(
    Model, Model.state == "active"
)
"""The query before every search; it reads one row of each table."""

BYTES_PER_ITEM = 100
"""What an item takes in a snapshot besides its embedding, in bytes: its columns, and an ANN index."""


class Serving:
    """The generation in service of one process.

    Attributes:
        store: the database and the crops.
        priority: the order in which work embeds crops.
        limits: the limits of an uploaded image.
        snapshots: the snapshots of the index on the disk.
    """

    def __init__(self, store: Store) -> None:
        settings = store.settings
        self.store = store
        self.priority = Priority()
        self.limits = Limits(settings.max_upload_bytes, settings.max_pixels, settings.min_side)
        self.snapshots = Snapshots(settings.snapshots_dir)
        self._swap = Lock()
        self._generation: Generation | None = None
        self._former_embedder: Embedder | None = None
        self._former_replica: Replica | None = None
        self._failure: str | None = None
        self._lacks_room = False
        store.follow = self.refresh

    def current(self) -> Generation:
        """Return the generation in service; a request calls this once.

        Raises:
            NotReady: the first generation is being loaded, or could not be loaded.
        """
        generation = self._generation
        if generation is None:
            raise NotReady(self._failure or "the network and the index are being loaded; try again soon")
        return generation

    def replace(self, generation: Generation) -> None:
        """Put this generation in service for the requests that begin after this call.

        The network and the index of the former generation stay in memory, for a rollback.
        """
        before, self._generation = self._generation, generation
        if before is not None and before.version != generation.version:
            self._former_embedder = before.embedder
        if before is not None and before.replica is not generation.replica:
            self._former_replica = before.replica

    def loaded(self) -> dict[str, Embedder]:
        """Return the networks in memory by version: those in service, and the former network."""
        generation = self._generation
        known = [self._former_embedder]
        if generation is not None:
            known += [generation.embedder, generation.gallery_embedder]
        return {embedder.version: embedder for embedder in known if embedder is not None}

    def take_former_replica(self, version: str | None = None) -> Replica | None:
        """Hand over the former index if it holds embeddings of this version, else discard it.

        The former index has seen no change since it left service.
        """
        replica, self._former_replica = self._former_replica, None
        if replica is None or replica.version == version:
            return replica
        replica.index.close()
        return None

    def discard_erased(self) -> None:
        """Discard the former index if an item was erased since, because the index still holds that item."""
        replica = self._former_replica
        if replica is None:
            return
        with self.store.read() as session:
            holds_erased = replica.holds_erased(session)
        if holds_erased:
            self.take_former_replica()

    @contextmanager
    def swapping(self) -> Iterator[None]:
        """Hold back `refresh` while the caller activates a version and then replaces the generation."""
        with self._swap:
            yield

    def refresh(self) -> Generation:
        """Apply the changes of all processes, and return the active generation.

        Raises:
            NotReady: the first generation is being loaded, or another process has activated a version that
                cannot be loaded here.
        """
        while True:
            generation = self.current()
            with self.store.read() as session:
                newest, version, stand_in, evaluated_at = session.execute(NEWEST).one()
                if ActiveModel(version, stand_in or version) == generation.active_model:
                    if evaluated_at != generation.thresholds.evaluated_at:
                        generation = self._follow_evaluation(generation, session)
                    generation.replica.catch_up(session, newest)
                    metrics.note_replica(generation.replica.sequence)
                    return generation
            self._follow_swap(generation)

    def _follow_evaluation(self, generation: Generation, session: Session) -> Generation:
        """Take over the thresholds of a new evaluation of the version in service."""
        thresholds = find_thresholds(session, generation.version, self.store.settings)
        evaluated = replace(generation, thresholds=thresholds)
        with self._swap:
            if self._generation is generation:
                self._generation = evaluated
        return evaluated

    def _follow_swap(self, generation: Generation) -> None:
        """Load the version that another process has activated, unless another thread has done so."""
        with self._swap:
            if self._generation is not generation:
                return
            try:
                self.replace(self.load_active())
            except ServiceError as error:
                raise NotReady(
                    f"another process activated a version that cannot be served here: {error}"
                ) from error

    def load_active(self) -> Generation:
        """Load the active network, unless it is in memory, and its index.

        Raises:
            NetworkLost: the checkpoint of the active version is gone, has changed, or cannot be served.
            ServiceError: no version is active.
        """
        with self.store.read() as session:
            active = active_model(session)
        if active is None:
            raise ServiceError("no model version is active in this database; the first start activates one")
        embedders = self.loaded()
        for version in {*active} - embedders.keys():
            try:
                embedders[version] = load_registered(self.store, version)
            except ServiceError as error:
                raise NetworkLost(version, str(error)) from error
        gallery_embedder = embedders[active.gallery_version]
        with self.store.read() as session:
            replica = self.load_replica(session, gallery_embedder)
            thresholds = find_thresholds(session, active.version, self.store.settings)
        return Generation(embedders[active.version], replica, thresholds, gallery_embedder)

    def load_replica(self, session: Session, embedder: Embedder) -> Replica:
        """Return the index for a network: from memory, else from the snapshot, else from the database."""
        gallery_id, newest = session.execute(select(Gallery.id, Gallery.newest_change)).one()
        version, settings = embedder.version, self.store.settings
        kind, gap_s = settings.index, settings.track_gap_s
        replica = self.take_former_replica(version)
        if replica is None:
            replica = self.snapshots.load(gallery_id, version, newest, kind, gap_s)
        if replica is None:
            replica = Replica.load(session, version, embedder.embedding_size, kind, track_gap_s=gap_s)
        replica.catch_up(session, newest)
        return replica

    def close(self) -> None:
        """Stop the background work of the index, wait until it has ended, and write a last snapshot."""
        self.take_former_replica()
        if self._generation is not None:
            self._generation.index.close()
            self.save_snapshot(is_last=True)

    def save_snapshot(self, *, is_last: bool = False) -> None:
        """Write a snapshot of the index if one is due.

        With `is_last` a snapshot is written even after a single change, because no later one will be.
        """
        replica = self.current().replica
        is_due = self.snapshots.changes_since(replica) > 0 if is_last else self.snapshots.is_due(replica)
        if not is_due or not self._has_room(replica):
            return
        try:
            with self.snapshots.locked():
                with self.store.read() as session:
                    gallery_id = session.scalars(select(Gallery.id)).one()
                    newest, version, stand_in, _ = session.execute(NEWEST).one()
                    if (stand_in or version) != replica.version:
                        return
                    replica.catch_up(session, newest)  # so that no erased item is written
                self.snapshots.save(gallery_id, replica)
        except (OSError, SQLAlchemyError) as error:
            logger.warning("no snapshot of the index was written", reason=str(error))

    def _has_room(self, replica: Replica) -> bool:
        """Return whether the disk has room for a snapshot, and log once if it has none.

        A start without a snapshot builds the index from the database, so the database has the room first.
        """
        num_bytes = len(replica.index) * (2 * replica.index.embedding_size + BYTES_PER_ITEM)
        lacked, self._lacks_room = self._lacks_room, False
        try:
            self.store.room.require_free({self.store.settings.snapshots_dir: num_bytes})
        except StorageFull as error:
            self._lacks_room = True
            if not lacked:
                logger.warning("no snapshot of the index is written", reason=str(error))
        return not self._lacks_room

    def note_failure(self, reason: str) -> bool:
        """Note why no generation could be loaded, and tell whether this reason is new."""
        is_new, self._failure = reason != self._failure, reason
        return is_new
