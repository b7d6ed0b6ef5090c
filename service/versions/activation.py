"""Activation: make another model version active while the service answers requests.

An activation embeds the gallery from the stored crops, builds and verifies a new index, and then embeds the
items that were enrolled during the build, until few are left. The cut-over embeds these last items and
replaces the index. Only the cut-over holds back changes of the gallery. With the strategy `backfill`, a
failure before the cut-over changes nothing. A rollback is an activation of a former version.

An activation is a job. If its process dies, another process, or this one after a restart, continues the job.
"""

import random
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from model.embedder import Embedder
from service.errors import ItemsMissing, ModelInUse, ModelNotFound, ServiceError
from service.jobs.jobs import NOT_ENDED, advance, mark_ended, require_running
from service.serving.embedding import load_registered
from service.serving.generation import Generation
from service.serving.replica import Replica
from service.serving.serving import Serving
from service.serving.stored import compare, embed_stored
from service.serving.thresholds import find_thresholds
from service.store.changes import ActiveModel, Transaction, active_model, newest_change
from service.store.database import pages
from service.store.store import Store
from service.store.tables import Embedding, Item, Job, Model, now
from service.versions.backfill import Backfill, Pace, count_left, is_embedded
from service.versions.registry import delete_embeddings, find_file

logger = structlog.get_logger(__name__)

MAX_ROUNDS = 10
"""The most rounds before a cut-over; each embeds the items that were enrolled during the round before."""

MAX_STRAGGLERS = 8
"""The rounds end when one has embedded at most this many items, so that enrolments wait only briefly."""

SAMPLE_SIZE = 16
"""How many items are embedded again, to compare the result with their stored embeddings."""

MAX_MISSING_IDS = 1_000
"""The most ids of items without a crop in the result of a job."""


def run_activation(serving: Serving, job: Job) -> dict[str, Any] | None:
    """Run or continue the job of an activation, and return the result of the job.

    Raises:
        Cancelled: the job was cancelled.
        Stopped: the process is shutting down.
        ServiceError: the network cannot be loaded, a crop cannot be embedded, or the new index fails its
            verification. The version that was active stays active.
    """
    version, options = job.model_version or "", job.options or {}
    with serving.store.read() as session:
        if active_model(session) == ActiveModel(version, version):
            return None
    current = serving.refresh()
    find_file(serving.store, version)
    embedder = serving.loaded().get(version) or load_registered(serving.store, version)
    if options.get("strategy") == "compatible" and current.version != version:
        _switch_queries(serving, job.id, embedder, current)
    activation = _Activation(serving, job.id, embedder, allow_missing=bool(options.get("allow_missing")))
    activation.embed_all()
    former = serving.take_former_replica(version if options.get("is_rollback") else None)
    result = activation.cut_over(former or activation.build())
    delete_old_embeddings(serving.store)
    return result


def mark_active(change: Transaction, version: str, gallery_version: str | None = None) -> None:
    """Make a version the active one, and retire the former active version.

    Args:
        change: the transaction.
        version: the model version that embeds queries from the commit on.
        gallery_version: the compatible version whose embeddings are searched until the gallery is embedded
            by `version`; None if the gallery is embedded already.
    """
    session = change.session
    session.execute(update(Model).where(Model.state == "active").values(state="retired", stand_in=None))
    values = {"state": "active", "activated_at": now(), "stand_in": gallery_version}
    session.execute(update(Model).where(Model.version == version).values(values))
    change.note("compatible" if gallery_version else "activated")


def delete_old_embeddings(store: Store) -> None:
    """Delete the embeddings of old versions.

    The last `keep_versions` active versions, and the versions that a job needs, keep their embeddings.
    """
    with store.read() as session:
        activated = select(Model.version).where(Model.activated_at.is_not(None))
        last = activated.order_by(Model.activated_at.desc()).limit(store.settings.keep_versions)
        needed = select(Job.model_version).where(Job.state.in_(NOT_ENDED))
        kept = {*session.scalars(last), *session.scalars(needed), *(active_model(session) or ())} - {None}
        versions = session.scalars(select(Model.version).where(Model.version.not_in(kept))).all()
    for version in versions:
        with suppress(ModelInUse, ModelNotFound):
            delete_embeddings(store, version)


def _switch_queries(serving: Serving, job_id: str, embedder: Embedder, current: Generation) -> None:
    """Make a compatible version embed queries, while the index keeps the embeddings of the former version."""
    gallery_embedder = current.gallery_embedder
    with serving.swapping():
        with serving.store.change() as change:
            require_running(change.session, job_id)
            mark_active(change, embedder.version, gallery_embedder.version)
            thresholds = find_thresholds(change.session, embedder.version, serving.store.settings)
        serving.replace(Generation(embedder, current.replica, thresholds, gallery_embedder))
    logger.info("queries are embedded by a compatible network", model_version=embedder.version)


class _Activation:
    """A running activation."""

    def __init__(self, serving: Serving, job_id: str, embedder: Embedder, *, allow_missing: bool) -> None:
        self._serving = serving
        self._store = serving.store
        self._job_id = job_id
        self._version = embedder.version
        self._embedder = embedder
        self._allow_missing = allow_missing
        pace = Pace(self._store.settings.backfill_share, self._store.stopping)
        self._backfill = Backfill(self._store, serving.priority, embedder, pace)
        self._done = self._total = 0

    def embed_all(self) -> None:
        """Embed every item that has no embedding of this version.

        Raises:
            ItemsMissing: the crops of some items are gone, and `allow_missing` is false.
        """
        with self._store.read() as session:
            self._total, left = count_left(session, self._version)
        self._done = self._total - left
        with self._store.change() as change:
            self._advance(change.session, 0)
        self._backfill.run(self._advance)
        with self._store.read() as session:
            self._find_missing(session)

    def _advance(self, session: Session, num: int) -> None:
        self._done += num
        self._total = max(self._total, self._done)
        advance(session, self._job_id, self._done, self._total)

    def build(self) -> Replica:
        """Build the index, and verify that no item is absent and that a sample of embeddings is right.

        Embeddings that the index refuses, such as embeddings of another size, are deleted and made again.
        """
        replica, lacking = self._load()
        if lacking:
            logger.warning("invalid embeddings are made again", items=len(lacking))
            with self._store.change() as change:
                _delete_embeddings(change.session, self._version, lacking)
            self._backfill.last = 0
            self._backfill.run(self._advance)
            replica.index.close()
            replica, lacking = self._load()
        if lacking:
            raise ServiceError(f"{len(lacking)} items have no embedding of {self._version}: not switched")
        self._compare_sample(replica)
        return replica

    def _load(self) -> tuple[Replica, Collection[int]]:
        """Return the index of all embeddings, and the slots of items that are not in the index."""
        with self._store.read() as session:
            sequence = newest_change(session)
        self._backfill.run(self._advance)
        with self._store.read() as session:
            size, settings = self._embedder.embedding_size, self._store.settings
            gap_s = settings.track_gap_s
            replica = Replica.load(session, self._version, size, settings.index, sequence, gap_s)
            alive = set(session.scalars(select(Item.slot).where(Item.slot <= sequence)))
        return replica, sorted(alive - set(replica.index.slots().tolist()) - self._backfill.missing.keys())

    def _compare_sample(self, replica: Replica) -> None:
        """Embed a sample of the items again, and compare the results with the stored embeddings.

        Raises:
            ServiceError: a stored embedding differs from the embedding that the network makes now.
        """
        slots = replica.index.slots().tolist()
        sample = random.sample(slots, min(SAMPLE_SIZE, len(slots)))
        with self._store.read() as session:
            statement = select(Item.id, Item.sha256, Embedding.values).join(
                Embedding, (Embedding.slot == Item.slot) & (Embedding.model_version == self._version)
            )
            rows = session.execute(statement.where(Item.slot.in_(sample))).all()
        stored = {item_id: values for item_id, _, values in rows}
        made = embed_stored(self._store, self._embedder, {item_id: sha256 for item_id, sha256, _ in rows})
        for item_id, made_D in made.items():
            likeness = compare(stored[item_id], made_D)
            if not likeness.is_same:
                raise ServiceError(
                    f"the stored embedding of item {item_id} by {self._version} differs from the one that "
                    f"the network makes now (cosine {likeness.cosine:.3f}, length {likeness.length:.3f}): "
                    "not switched; delete the version and register it again"
                )

    def cut_over(self, replica: Replica) -> dict[str, Any]:
        """Bring the index up to date, switch to the index, and return the result of the job."""
        for _ in range(MAX_ROUNDS):
            if self._catch_up(replica) <= MAX_STRAGGLERS:
                break
        with self._serving.priority.no_enrolment():
            self._catch_up(replica, is_resting=False)
            with self._serving.swapping():
                with self._store.change() as change:
                    started_s = time.monotonic()
                    result = self._switch(change, replica)
                    thresholds = find_thresholds(change.session, self._version, self._store.settings)
                self._serving.replace(Generation(self._embedder, replica, thresholds, self._embedder))
                held_s = time.monotonic() - started_s
        logger.info(
            "the gallery is searched by another version", model_version=self._version, held_s=round(held_s, 3)
        )
        return result

    def _catch_up(self, replica: Replica, *, is_resting: bool = True) -> int:
        """Embed new items, bring the index up to date, and return how many items were embedded."""
        with self._store.read() as session:
            newest = newest_change(session)
        num = self._backfill.run(self._advance, is_resting=is_resting)
        with self._store.read() as session:
            replica.catch_up(session, newest)
        return num

    def _switch(self, change: Transaction, replica: Replica) -> dict[str, Any]:
        """Make the version active in a transaction, end the job, and return the result of the job."""
        session = change.session
        self._done += self._backfill.finish(session)
        replica.catch_up(session, change.newest)
        missing = self._find_missing(session)
        num_items = session.scalar(select(func.count()).select_from(Item)) or 0
        if len(replica.index) != num_items - len(missing):
            raise ServiceError(
                f"{num_items} items have {len(replica.index)} embeddings of {self._version}: not switched"
            )
        result = {"num_items": num_items, "num_missing": len(missing), "missing": missing[:MAX_MISSING_IDS]}
        self._advance(session, 0)
        mark_active(change, self._version)
        replica.sequence = change.newest  # other processes rebuild their index for this change
        mark_ended(session, self._job_id, "succeeded", None, result)
        return result

    def _find_missing(self, session: Session) -> list[str]:
        """Return the ids of the items that still exist and whose crop is gone.

        Raises:
            ItemsMissing: there are such items, and `allow_missing` is false.
        """
        missing: list[str] = []
        for page in pages(self._backfill.missing):
            not_embedded = Item.slot.in_(page) & ~is_embedded(self._version)
            missing += session.scalars(select(Item.id).where(not_embedded))
        if missing and not self._allow_missing:
            raise ItemsMissing(self._version, missing)
        return missing


def _delete_embeddings(session: Session, version: str, slots: Collection[int]) -> None:
    for page in pages(slots):
        session.execute(delete(Embedding).where(Embedding.model_version == version, Embedding.slot.in_(page)))
