"""Evaluation: measure a model version and the active one on the labelled items of the gallery, as a job.

Both versions are measured on the same items, by the protocol of `metrics.py`. Missing embeddings of a version
are made from the crops and stored page by page, so that a later activation can use them. A crash loses at
most the last page, and another process continues the job.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from model.card import salvage_card
from service.audit.entries import record
from service.errors import ModelNotFound
from service.index import DEFAULT_TRACK_GAP_S
from service.jobs.jobs import NOT_ENDED, Stopped, add_job, advance, mark_ended
from service.serving.embedding import load_registered
from service.serving.priority import Priority
from service.store.changes import active_model
from service.store.database import pages
from service.store.store import Store
from service.store.tables import Embedding, Item, Job, Model, now
from service.versions.backfill import Backfill, Pace
from service.versions.labelled import Labelled, find_labelled, require_enough
from service.versions.metrics import MAX_QUERIES, EvaluationResult, compare, evaluate

KIND = "evaluation"
ROWS_PER_PAGE = 2_000
MAX_DRIFT = 0.1
"""A comparison holds while the number of labelled items has changed by at most this share."""


def request_evaluation(store: Store, version: str) -> Job:
    """Queue the evaluation of a version and return its job, or return the job that has not ended yet.

    Raises:
        ModelNotFound: there is no such version.
    """
    under_way = select(Job).where(Job.kind == KIND, Job.model_version == version, Job.state.in_(NOT_ENDED))
    with store.change() as change:
        if change.session.get(Model, version) is None:
            raise ModelNotFound(version)
        job = change.session.scalar(under_way.limit(1))
        job = add_job(change, KIND, version) if job is None else job
        record(job_id=job.id, model_version=version)
        return job


def comparison_of(
    session: Session, version: str, track_gap_s: float = DEFAULT_TRACK_GAP_S
) -> dict[str, Any] | None:
    """Return the newest evaluation of this version against the version that is active now.

    The result is None if there is no such evaluation, or if the number of labelled items has changed by more
    than a tenth since.
    """
    ended = select(Job.result).where(
        Job.kind == KIND, Job.model_version == version, Job.state == "succeeded", Job.result.is_not(None)
    )
    active = active_model(session)
    for result in session.scalars(ended.order_by(Job.finished_at.desc(), Job.id.desc())):
        if result is not None and active and result["active_version"] == active.version:
            before, after = result["num_labelled"], find_labelled(session, track_gap_s).num_all
            return result if abs(after - before) <= MAX_DRIFT * before else None
    return None


def is_worse(comparison: dict[str, Any]) -> bool:
    """Tell whether a version is worse than the active one in rank-1 or mAP, by more than chance explains.

    >>> is_worse({"difference": {"rank1": {"high": 0.5}, "mAP": {"high": -0.1}}})
    True
    """
    return any(interval["high"] < 0 for interval in comparison["difference"].values())


def run_evaluation(store: Store, priority: Priority, job: Job) -> None:
    """Evaluate a version and the active one on the same items, and store the results.

    The job gets the comparison, and each of the two versions gets its own result.

    Raises:
        Cancelled: the job was cancelled.
        Stopped: the process is shutting down.
        TooFewLabels: the gallery has too few labelled items; the message says how many are needed.
        ServiceError: the network cannot be loaded, or makes an embedding that is not finite.
    """
    version = job.model_version or ""
    with store.read() as session:
        active, labelled = active_model(session), find_labelled(session, store.settings.track_gap_s)
    require_enough(labelled)
    active_version = active.version if active else ""
    versions = list(dict.fromkeys((active_version, version)))
    evaluation = _Evaluation(store, priority, job.id, versions, len(labelled.slots))
    for one in versions:
        evaluation.embed_missing(one, labelled)
    results, counts = evaluation.measure()
    evaluated_at = now().isoformat(timespec="microseconds")
    found = {one: {"evaluated_at": evaluated_at, **results[one].to_dict()} for one in versions}
    result = {
        "model_version": version,
        "active_version": active_version,
        "num_queries": found[version]["num_queries"],
        **counts,
        "versions": found,
        "difference": compare(results[version], results[active_version]),
    }
    with store.change() as change:
        evaluation.advance(change.session, evaluation.total)
        for one, kept in found.items():
            change.session.execute(update(Model).where(Model.version == one).values(evaluation=kept))
        mark_ended(change.session, job.id, "succeeded", None, result)


@dataclass
class _Evaluation:
    """A running evaluation. The progress of its job counts the items, then the queries of each version."""

    store: Store
    priority: Priority
    job_id: str
    versions: list[str]
    num_items: int
    done: int = 0
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = self.num_items + len(self.versions) * self._num_queries

    @property
    def _num_queries(self) -> int:
        return min(self.num_items, MAX_QUERIES)

    def advance(self, session: Session, done: int) -> None:
        """Record the progress of the job in the caller's transaction."""
        advance(session, self.job_id, min(done, self.total), self.total)

    def embed_missing(self, version: str, labelled: Labelled) -> None:
        """Make and store the missing embeddings of a version, but not of items whose crop is gone."""
        with self.store.read() as session:
            stored = select(Embedding.slot).where(Embedding.model_version == version)
            there = set(session.scalars(stored))
        missing = [slot for slot in labelled.slots if slot not in there]
        self.done = self.num_items - len(missing)
        if not missing:
            return
        with self.store.change() as change:
            self._count(change.session, 0)
        pace = Pace(self.store.settings.backfill_share, self.store.stopping)
        backfill = Backfill(self.store, self.priority, load_registered(self.store, version), pace)
        for page in pages(missing):
            backfill.run(self._count, Item.slot.in_(page))

    def _count(self, session: Session, num: int) -> None:
        self.done += num
        self.advance(session, self.done)

    def measure(self) -> tuple[dict[str, EvaluationResult], dict[str, int]]:
        """Return the result of each version, and the numbers of items.

        The labelled items are read again, because items may have been relabelled or erased during the job.

        Raises:
            TooFewLabels: too few items have an embedding of every version.
        """
        with self.store.read() as session:
            labelled = find_labelled(session, self.store.settings.track_gap_s)
            embeddings = {one: _embeddings(session, one, labelled) for one in self.versions}
        has_all = [all(slot in embeddings[one] for one in self.versions) for slot in labelled.slots]
        items = labelled.only(np.array(has_all, bool)).queries()
        require_enough(items)
        results = {}
        for place, one in enumerate(self.versions):
            self.done = self.num_items + place * self._num_queries
            rows_ND = np.stack([embeddings[one][slot] for slot in items.slots])
            results[one] = evaluate(
                rows_ND, items.identity_keys, items.viewpoints, on_progress=self._note_queries
            )
        return results, {
            "num_items": len(items.slots),
            "num_labelled": labelled.num_all,
            "num_left_out": has_all.count(False),
        }

    def _note_queries(self, num: int) -> None:
        if self.store.stopping.is_set():
            raise Stopped
        with self.store.write() as session:
            self.advance(session, self.done + num)


def _embeddings(session: Session, version: str, labelled: Labelled) -> dict[int, NDArray[np.float16]]:
    """Return slot -> embedding of the labelled items, without invalid embeddings."""
    card = session.scalars(select(Model.card).where(Model.version == version)).one()
    usable, _ = salvage_card(card, version)
    slots, num_bytes = set(labelled.slots), 2 * usable.embedding_size if usable else 0
    rows = select(Embedding.slot, Embedding.values).where(Embedding.model_version == version)
    found: dict[int, NDArray[np.float16]] = {}
    for slot, values in session.execute(rows.execution_options(yield_per=ROWS_PER_PAGE)):
        if slot in slots and len(values) == num_bytes:
            embedding_D = np.frombuffer(values, "<f2")
            if np.isfinite(embedding_D).all() and embedding_D.any():
                found[slot] = embedding_D
    return found
