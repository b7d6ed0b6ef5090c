"""Put another model version in service while the old one answers, or the one before back.

The gallery is embedded again from its stored crops, the index is built and verified, and only the last
stragglers and the cut-over keep others from changing the gallery. Whatever fails before that changes nothing.
A job says how far it is; who dies on the way is followed by another process, or by itself started anew.
"""

import random
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import structlog
from PIL import Image
from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.orm import Session

from model.data.images import UNLIMITED
from model.embedder import Embedder
from service.errors import (
    ActivationRunning,
    CropMissing,
    CropsNotKept,
    ItemsMissing,
    ModelInUse,
    ModelNotFound,
    NotBetter,
    NotCompatible,
    NotEvaluated,
    NothingToRollBackTo,
    ServiceError,
)
from service.jobs.jobs import RUNNING, add_job, advance, finish, require
from service.serving.embedding import embed_in_batches, load_registered
from service.serving.generation import Generation
from service.serving.replica import Replica
from service.serving.serving import Serving
from service.serving.thresholds import find_thresholds
from service.store.changes import ActiveModel, Transaction, active_model, newest_change
from service.store.database import pages
from service.store.store import Store
from service.store.tables import Embedding, Item, Job, Model, now
from service.uploads.requests import decode
from service.versions.backfill import FEW, Backfill, Pace, is_embedded, num_left
from service.versions.evaluation import comparison_of, worse_beyond
from service.versions.registry import drop_embeddings, find_file

logger = structlog.get_logger(__name__)

KIND = "activation"
ROUNDS = 10
SAMPLE = 16
LIKE = 0.99
"""The least cosine of an embedding with the same one made anew, perhaps by another processor."""

Strategy = Literal["backfill", "compatible"]


@dataclass(frozen=True)
class Wanted:
    """How to activate: embed all first, or at once what is compatible; whether items may be left out; and
    whether the version must not be worse than the active one.
    """

    strategy: Strategy = "backfill"
    allow_missing: bool = False
    require_better: bool = False


def queue_activation(store: Store, version: str, wanted: Wanted) -> Job:
    """Write down that a registered version is to be activated, and return the job.

    Raises:
        ModelNotFound: there is no such version.
        ActivationRunning: another activation is under way.
        CropsNotKept: it cannot embed items whose crop was never kept.
        NotCompatible: its card does not promise what the strategy needs.
        NotEvaluated: it must not be worse than the active one, and has not been compared with it.
        NotBetter: it is worse, by more than chance explains.
    """
    if wanted.require_better:
        _check_better(store, version)
    with store.change() as change:
        row = change.session.get(Model, version)
        if row is None:
            raise ModelNotFound(version)
        return _queue(change, row, wanted)


def queue_rollback(store: Store) -> Job:
    """Write down that the version that was active before this one is to be activated, and return the job.

    Raises:
        NothingToRollBackTo: no other version has been active.
        ActivationRunning: an activation is under way.
        CropsNotKept: some items have no embedding of it, and no crop.
    """
    with store.change() as change:
        before = select(Model).where(Model.state == "retired").order_by(Model.activated_at.desc()).limit(1)
        row = change.session.scalar(before)
        if row is None:
            raise NothingToRollBackTo
        return _queue(change, row, Wanted(), is_rollback=True)


def _queue(change: Transaction, row: Model, wanted: Wanted, *, is_rollback: bool = False) -> Job:
    session = change.session
    running = session.scalar(select(Job.id).where(Job.kind == KIND, Job.state.in_(RUNNING)))
    if running is not None:
        raise ActivationRunning(running)
    is_active = active_model(session) == ActiveModel(row.version, row.version)
    if not is_active:
        _check_possible(session, row, wanted)
    options = {
        "strategy": wanted.strategy,
        "allow_missing": wanted.allow_missing,
        "is_rollback": is_rollback,
    }
    job = add_job(change, KIND, row.version, options)
    if is_active:
        job.state, job.finished_at = "succeeded", job.created_at
    return job


def _check_better(store: Store, version: str) -> None:
    with store.read() as session:
        active = active_model(session)
        if session.get(Model, version) is None or active is None or active.version == version:
            return
        comparison = comparison_of(session, version)
    if comparison is None:
        raise NotEvaluated(version, active.version)
    if worse_beyond(comparison):
        raise NotBetter(version, comparison)


def _check_possible(session: Session, row: Model, wanted: Wanted) -> None:
    active = active_model(session)
    if wanted.strategy == "compatible" and active and active.version != row.version:
        promised = (row.card.get("compatible_with") or {}).get("version")
        if promised != active.version:
            raise NotCompatible(row.version, active.version, promised)
    lost = select(func.count()).select_from(Item).where(~Item.has_crop, ~is_embedded(row.version))
    num = session.scalar(lost) or 0
    if num and not wanted.allow_missing:
        raise CropsNotKept(row.version, num)


def run_activation(serving: Serving, job: Job) -> dict[str, Any] | None:
    """Do an activation from where it is, to its end.

    Raises:
        Cancelled: it is not wanted any more.
        Stopped: the process is going down.
        ServiceError: the network, its file, a crop or the count at the end is not as it must be; the version
            that was serving goes on.
    """
    version, options = job.model_version or "", job.options or {}
    with serving.store.read() as session:
        if active_model(session) == ActiveModel(version, version):
            return None
    current = serving.refresh()
    find_file(serving.store, version)
    embedder = serving.loaded().get(version) or load_registered(serving.store, version)
    if options.get("strategy") == "compatible" and current.version != version:
        current = _switch_queries(serving, job.id, embedder, current)
    activation = _Activation(serving, job.id, embedder, allow_missing=bool(options.get("allow_missing")))
    activation.embed_all()
    former = serving.take_former_replica(version if options.get("is_rollback") else None)
    result = activation.cut_over(former or activation.build())
    prune(serving.store)
    return result


def mark_active(change: Transaction, version: str, stand_in: str | None = None) -> None:
    """Make this version, and no other, the active one; the embeddings of `stand_in` are searched for now."""
    session = change.session
    session.execute(update(Model).where(Model.state == "active").values(state="retired", stand_in=None))
    values = {"state": "active", "activated_at": now(), "stand_in": stand_in}
    session.execute(update(Model).where(Model.version == version).values(values))
    change.note("compatible" if stand_in else "activated")


def prune(store: Store) -> None:
    """Delete the embeddings of all but the versions that were active last."""
    with store.read() as session:
        active = active_model(session)
        been = select(Model.version).where(Model.activated_at.is_not(None))
        newest = been.order_by(Model.activated_at.desc()).limit(store.settings.keep_versions)
        kept = {*session.scalars(newest), *(active or ())}
        at_work = select(Job.model_version).where(Job.state.in_(RUNNING))
        kept |= set(session.scalars(at_work))
        versions = session.scalars(select(Model.version).where(Model.version.not_in(kept - {None}))).all()
    for version in versions:
        with suppress(ModelInUse, ModelNotFound):
            drop_embeddings(store, version)


def _switch_queries(serving: Serving, job_id: str, embedder: Embedder, current: Generation) -> Generation:
    """Embed queries with a compatible network from now on, against the embeddings that there are."""
    searched = current.gallery_embedder
    with serving.swapping():
        with serving.store.change() as change:
            require(change.session, job_id)
            mark_active(change, embedder.version, searched.version)
            thresholds = find_thresholds(change.session, embedder.version, serving.store.settings.target_fmr)
        generation = Generation(embedder, current.replica, thresholds, searched)
        serving.replace(generation)
    logger.info("queries are embedded by a compatible network", model_version=embedder.version)
    return generation


class _Activation:
    """One activation under way."""

    def __init__(self, serving: Serving, job_id: str, embedder: Embedder, *, allow_missing: bool) -> None:
        self._serving = serving
        self._job_id = job_id
        self._version = embedder.version
        self._embedder = embedder
        self._allow_missing = allow_missing
        pace = Pace(serving.store.settings.backfill_share, serving.store.stopping)
        self._backfill = Backfill(serving.store, serving.priority, embedder, pace)
        self._done = self._total = 0

    def embed_all(self) -> None:
        """Embed every item that has no embedding of this version.

        Raises:
            ItemsMissing: some have no crop any more, and must not be left out.
        """
        with self._serving.store.read() as session:
            self._total, left = num_left(session, self._version)
        self._done = self._total - left
        with self._serving.store.change() as change:
            self._tell(change.session, 0)
        self._backfill.run(self._tell)
        with self._serving.store.read() as session:
            self._still_missing(session)

    def _tell(self, session: Session, num: int) -> None:
        self._done += num
        self._total = max(self._total, self._done)
        advance(session, self._job_id, self._done, self._total)

    def build(self) -> Replica:
        """Build the index and verify it: every item is there, and embeddings are what the network makes.

        Embeddings that are spoilt are made anew.
        """
        replica, lacking = self._load()
        if lacking:
            logger.warning("spoilt embeddings are made anew", items=len(lacking))
            with self._serving.store.change() as change:
                _forget(change.session, self._version, lacking)
            self._backfill.last = 0
            self._backfill.run(self._tell)
            replica.index.close()
            replica, lacking = self._load()
        if lacking:
            raise ServiceError(f"{len(lacking)} items have no embedding of {self._version}: not switched")
        self._compare_sample(replica)
        return replica

    def _load(self) -> tuple[Replica, Collection[int]]:
        """Return the index of what is embedded, and the slots of items that should be in it and are not."""
        with self._serving.store.read() as session:
            sequence = newest_change(session)
        self._backfill.run(self._tell)
        with self._serving.store.read() as session:
            size, kind = self._embedder.embedding_size, self._serving.store.settings.index
            replica = Replica.load(session, self._version, size, kind, sequence)
            alive = set(session.scalars(select(Item.slot).where(Item.slot <= sequence)))
        return replica, sorted(alive - set(replica.index.slots().tolist()) - self._backfill.missing.keys())

    def _compare_sample(self, replica: Replica) -> None:
        """Embed some items anew and compare.

        Raises:
            ServiceError: if a stored embedding is not what the network makes.
        """
        slots = replica.index.slots().tolist()
        sample = random.sample(slots, min(SAMPLE, len(slots)))
        with self._serving.store.read() as session:
            statement = select(Item.id, Item.sha256, Embedding.values).join(
                Embedding, (Embedding.slot == Item.slot) & (Embedding.model_version == self._version)
            )
            rows = session.execute(statement.where(Item.slot.in_(sample))).all()
        kept: list[tuple[str, bytes]] = []
        made_ND = embed_in_batches(self._embedder, self._images(rows, kept))
        for (item_id, values), made_D in zip(kept, made_ND, strict=True):
            stored_D = np.frombuffer(values, "<f2").astype(np.float32)
            length = float(np.linalg.norm(stored_D))
            cosine = float(stored_D @ made_D) / max(length, 1e-12)
            if not (cosine >= LIKE and abs(length - 1) <= 1 - LIKE):
                raise ServiceError(
                    f"the stored embedding of item {item_id} by {self._version} is not what the network "
                    f"makes (cosine {cosine:.3f}, length {length:.3f}): not switched; delete the version and "
                    "register it again"
                )

    def _images(
        self, rows: Iterable[Row[str, str, bytes]], kept: list[tuple[str, bytes]]
    ) -> Iterator[Image.Image]:
        """Decode the crops that are still there; `kept` gets the ids and stored embeddings of those."""
        for item_id, sha256, values in rows:
            with suppress(CropMissing):
                image, _ = decode(self._serving.store.crops.get(sha256), UNLIMITED)
                kept.append((item_id, values))
                yield image

    def cut_over(self, replica: Replica) -> dict[str, Any]:
        """Switch to the index, with what came while it was built."""
        serving = self._serving
        for _ in range(ROUNDS):
            if self._catch_up(replica) <= FEW:  # so few may be left to what keeps others waiting
                break
        with serving.priority.no_enrolment():  # no enrolment of this process is embedded meanwhile
            self._catch_up(replica, is_resting=False)
            with serving.swapping():
                with serving.store.change() as change:
                    started_s = time.monotonic()
                    result = self._switch(change, replica)
                    thresholds = find_thresholds(
                        change.session, self._version, serving.store.settings.target_fmr
                    )
                serving.replace(Generation(self._embedder, replica, thresholds, self._embedder))
                held_s = time.monotonic() - started_s
        logger.info("cut over", model_version=self._version, held_s=round(held_s, 3))
        return result

    def _catch_up(self, replica: Replica, *, is_resting: bool = True) -> int:
        """Embed what came, bring it to the index, and return how many items that were."""
        with self._serving.store.read() as session:
            newest = newest_change(session)
        num = self._backfill.run(self._tell, is_resting=is_resting)
        with self._serving.store.read() as session:
            replica.catch_up(session, newest)
        return num

    def _switch(self, change: Transaction, replica: Replica) -> dict[str, Any]:
        session = change.session
        self._done += self._backfill.finish(session)
        replica.catch_up(session, change.newest)
        missing = self._still_missing(session)
        num_items = session.scalar(select(func.count()).select_from(Item)) or 0
        if len(replica.index) != num_items - len(missing):
            raise ServiceError(
                f"{num_items} items have {len(replica.index)} embeddings of {self._version}: not switched"
            )
        result = {"num_items": num_items, "num_missing": len(missing), "missing": missing[:1_000]}
        self._tell(session, 0)
        mark_active(change, self._version)
        replica.sequence = change.newest  # it has what others find by building theirs anew
        finish(session, self._job_id, "succeeded", None, result)
        return result

    def _still_missing(self, session: Session) -> list[str]:
        """Return the ids of the items without a crop that were not deleted meanwhile.

        Raises:
            ItemsMissing: there are some, and none may be left out.
        """
        missing: list[str] = []
        for page in pages(self._backfill.missing):
            wanted = Item.slot.in_(page) & ~is_embedded(self._version)
            missing += session.scalars(select(Item.id).where(wanted))
        if missing and not self._allow_missing:
            raise ItemsMissing(self._version, missing)
        return missing


def _forget(session: Session, version: str, slots: Collection[int]) -> None:
    for page in pages(slots):
        session.execute(delete(Embedding).where(Embedding.model_version == version, Embedding.slot.in_(page)))
