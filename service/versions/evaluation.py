"""Judge a model version on the gallery's own labelled items, beside the active one: a job.

Both versions are judged on the same items, by the protocol of `metrics.py`. Embeddings that the
candidate lacks are made from the crops, a page at a time, and kept: an activation has them already. So a
crash loses nothing but the last page, and any process goes on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.orm import Session

from service.errors import ModelNotFound, TooFewLabels
from service.jobs.jobs import RUNNING, Stopped, add_job, advance, finish
from service.serving.embedding import load_registered
from service.serving.priority import Priority
from service.store.changes import active_model
from service.store.database import pages
from service.store.store import Store
from service.store.tables import Embedding, Item, Job, Model, now
from service.versions.backfill import Backfill, Pace
from service.versions.metrics import (
    MAX_QUERIES,
    NOWHERE,
    compare,
    draw_identities,
    evaluate,
    find_queries,
    viewpoints_of,
)

logger = structlog.get_logger(__name__)

KIND = "evaluation"
RETRY_S = 2
ITEMS_PER_PAGE = 64
ROWS_PER_PAGE = 2_000
MAX_ITEMS = 100_000
"""Labelled items that are judged; of more, those of identities drawn by chance."""

MIN_IDENTITIES = 2
MIN_QUERIES = 10
MAX_DRIFT = 0.1
"""A comparison holds while the gallery has as many labelled items as it had, give or take this share."""

Tell = Callable[[int], None]


@dataclass(frozen=True)
class Labelled:
    """The items to judge by, in the order of their slots; `num_all` labelled ones there are in all."""

    slots: list[int]
    hashes: list[str]
    identity_keys: NDArray[np.int64]
    viewpoints: NDArray[np.int64]
    num_all: int

    def only(self, kept: NDArray[np.bool_]) -> "Labelled":
        """Return the kept items."""
        viewpoints = np.flatnonzero(kept).tolist()
        return Labelled(
            [self.slots[place] for place in viewpoints],
            [self.hashes[place] for place in viewpoints],
            self.identity_keys[kept],
            self.viewpoints[kept],
            self.num_all,
        )


def request_evaluation(store: Store, version: str) -> Job:
    """Queue the evaluation of a version and return its job, or the one that is under way already.

    Raises:
        ModelNotFound: there is no such version.
    """
    waiting = select(Job).where(Job.kind == KIND, Job.model_version == version, Job.state.in_(RUNNING))
    with store.change() as change:
        if change.session.get(Model, version) is None:
            raise ModelNotFound(version)
        job = change.session.scalar(waiting.limit(1))
        if job is None:
            job = add_job(change, KIND, version)
        return job


def comparison_of(session: Session, version: str) -> dict[str, Any] | None:
    """Return what the newest evaluation found of this version against the one that is active now.

    None if there is none, or if the labelled items of the gallery have become more or fewer by a tenth since.
    """
    ended = select(Job.result).where(
        Job.kind == KIND, Job.model_version == version, Job.state == "succeeded", Job.result.is_not(None)
    )
    active = active_model(session)
    for result in session.scalars(ended.order_by(Job.finished_at.desc(), Job.id.desc())):
        if result is not None and active and result["active_version"] == active.version:
            before, after = result["num_labelled"], find_labelled(session).num_all
            return result if abs(after - before) <= MAX_DRIFT * before else None
    return None


def is_worse(comparison: dict[str, Any]) -> bool:
    """Tell whether a version is worse than the active one in rank-1 or mAP, by more than chance explains.

    >>> is_worse({"difference": {"rank1": {"high": 0.5}, "mAP": {"high": -0.1}}})
    True
    """
    return any(interval["high"] < 0 for interval in comparison["difference"].values())


def run_evaluation(store: Store, priority: Priority, job: Job) -> None:
    """Judge a version and the active one on the same items, and keep what is found with the job and both.

    Raises:
        Cancelled: the job is not wanted any more.
        Stopped: the process is going down.
        TooFewLabels: the message says what is needed.
        ServiceError: if the network cannot be loaded, or makes an embedding that is not finite.
    """
    version = job.model_version or ""
    with store.read() as session:
        active, wanted = active_model(session), find_labelled(session)
    _check_enough(wanted)
    active_version = active.version if active else ""
    versions = list(dict.fromkeys((active_version, version)))
    num_items = len(wanted.slots)
    total = num_items + len(versions) * min(num_items, MAX_QUERIES)

    def advanced(session: Session, done: int) -> None:
        advance(session, job.id, min(done, total), total)

    def tell(done: int) -> None:
        if store.stopping.is_set():
            raise Stopped
        with store.write() as session:
            advanced(session, done)

    for one in versions:
        _embed_missing(store, priority, one, wanted, advanced)
    with store.read() as session:
        labelled = find_labelled(session)  # people have been relabelled and erased meanwhile
        embeddings = {one: _embeddings(session, one, labelled) for one in versions}
    has_all = [all(slot in embeddings[one] for one in versions) for slot in labelled.slots]
    judged = labelled.only(np.array(has_all, bool))
    judged = judged.only(_is_query(judged))
    _check_enough(judged)
    results = {}
    for place, one in enumerate(versions):
        rows_ND = np.stack([embeddings[one][slot] for slot in judged.slots])
        tell_more = partial(_tell_more, tell, num_items + place * min(num_items, MAX_QUERIES))
        results[one] = evaluate(rows_ND, judged.identity_keys, judged.viewpoints, tell=tell_more)
    evaluated_at = now().isoformat(timespec="microseconds")
    found = {one: {"evaluated_at": evaluated_at, **results[one].to_dict()} for one in versions}
    result = {
        "model_version": version,
        "active_version": active_version,
        "num_queries": found[version]["num_queries"],
        "num_items": len(judged.slots),
        "num_labelled": labelled.num_all,
        "num_left_out": has_all.count(False),
        "versions": found,
        "difference": compare(results[version], results[active_version]),
    }
    with store.change() as change:
        advanced(change.session, total)
        for one, evaluation in found.items():
            change.session.execute(update(Model).where(Model.version == one).values(evaluation=evaluation))
        finish(change.session, job.id, "succeeded", None, result)


def _tell_more(tell: Tell, before: int, done: int) -> None:
    tell(before + done)


def _is_query(labelled: Labelled) -> NDArray[np.bool_]:
    """Say which items are still not alone: an identity may have lost what it had elsewhere."""
    is_query = np.zeros(len(labelled.slots), bool)
    is_query[find_queries(labelled.identity_keys, labelled.viewpoints)] = True
    return is_query


def find_labelled(session: Session) -> Labelled:
    """Return the items to judge by; of very many, those of identities drawn by chance."""
    rows = session.execute(_candidates().order_by(Item.slot)).all()
    keys = np.array([row.identity_key for row in rows], np.int64)
    viewpoints = viewpoints_of(
        keys, _codes([row.camera_id for row in rows]), _codes([row.track_id for row in rows])
    )
    is_labelled = viewpoints != NOWHERE
    num_all = int(is_labelled.sum())
    slots, hashes = [row.slot for row in rows], [row.sha256 for row in rows]
    found = Labelled(slots, hashes, keys, viewpoints, num_all).only(is_labelled)
    return found.only(draw_identities(found.identity_keys, MAX_ITEMS))


def _candidates() -> Select[int, int, str | None, str | None, str]:
    """Select the items of identities with two cameras or two tracks."""
    several = (
        select(Item.identity_key)
        .group_by(Item.identity_key)
        .having(
            or_(func.count(func.distinct(Item.camera_id)) > 1, func.count(func.distinct(Item.track_id)) > 1)
        )
    )
    columns = (Item.slot, Item.identity_key, Item.camera_id, Item.track_id, Item.sha256)
    return select(*columns).where(Item.identity_key.in_(several))


def _codes(names: Sequence[str | None]) -> NDArray[np.int64]:
    """Return a number for each name, -1 for none."""
    numbers: dict[str, int] = {}
    codes = [-1 if name is None else numbers.setdefault(name, len(numbers)) for name in names]
    return np.array(codes, np.int64)


def _check_enough(labelled: Labelled) -> None:
    num_identities = len(np.unique(labelled.identity_keys))
    num_queries = len(find_queries(labelled.identity_keys, labelled.viewpoints))
    if num_identities < MIN_IDENTITIES or num_queries < MIN_QUERIES:
        raise TooFewLabels(
            f"to judge a network takes {MIN_IDENTITIES} or more identities with items of two cameras, or of "
            f"two tracks, and {MIN_QUERIES} or more such items; there are {num_identities} and {num_queries} "
            "with crops or embeddings: enrol more, or say of items that are there whose and of which camera "
            "they are"
        )


def _embed_missing(
    store: Store,
    priority: Priority,
    version: str,
    labelled: Labelled,
    advanced: Callable[[Session, int], None],
) -> None:
    """Make and keep the embeddings that a version lacks; items that are gone, or whose crop is, get none."""
    with store.read() as session:
        there = set(session.scalars(select(Embedding.slot).where(Embedding.model_version == version)))
        missing = [slot for slot in labelled.slots if slot not in there]
    done = len(labelled.slots) - len(missing)

    def tell(session: Session, num: int) -> None:
        nonlocal done
        done += num
        advanced(session, done)

    if missing:
        with store.change() as change:
            tell(change.session, 0)
        pace = Pace(store.settings.backfill_share, store.stopping)
        backfill = Backfill(store, priority, load_registered(store, version), pace)
        for page in pages(missing):
            backfill.run(tell, Item.slot.in_(page))


def _embeddings(session: Session, version: str, labelled: Labelled) -> dict[int, NDArray[np.float16]]:
    """Return the embeddings of labelled items by slot, those that are spoilt left out."""
    card = session.scalars(select(Model.card).where(Model.version == version)).one()
    wanted, num_bytes = set(labelled.slots), 2 * card["embedding_size"]
    rows = select(Embedding.slot, Embedding.values).where(Embedding.model_version == version)
    found: dict[int, NDArray[np.float16]] = {}
    for slot, values in session.execute(rows.execution_options(yield_per=ROWS_PER_PAGE)):
        if slot in wanted and len(values) == num_bytes:
            embedding_D = np.frombuffer(values, "<f2")
            if np.isfinite(embedding_D).all() and embedding_D.any():
                found[slot] = embedding_D
    return found
