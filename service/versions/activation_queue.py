"""Queue activations and rollbacks, unless a check shows at once that they would fail."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from model.card import salvage_card
from service.audit.entries import record
from service.errors import (
    ActivationRunning,
    CropsNotKept,
    ModelNotFound,
    NotBetter,
    NotCompatible,
    NotEvaluated,
    NothingToRollBackTo,
)
from service.jobs.jobs import NOT_ENDED, add_job
from service.store.changes import ActiveModel, Transaction, active_model
from service.store.store import Store
from service.store.tables import Item, Job, Model
from service.versions.backfill import count_left, is_embedded
from service.versions.evaluation import comparison_of, is_worse

KIND = "activation"

BYTES_PER_NUMBER = 2.5
BYTES_PER_ROW = 120
"""What an embedding takes in a database: by number, with the unused ends of pages, and besides, in bytes."""

Strategy = Literal["backfill", "compatible"]


@dataclass(frozen=True)
class ActivationOptions:
    """The options of an activation.

    Attributes:
        strategy: `backfill` embeds the gallery before the switch. `compatible` switches queries at once and
            embeds the gallery afterwards; the version must be trained to be compatible with the active one.
        allow_missing: whether items whose crop is missing may be left out.
        require_better: whether to refuse a version that is worse than the active one or has not been
            evaluated.
    """

    strategy: Strategy = "backfill"
    allow_missing: bool = False
    require_better: bool = False


def queue_activation(store: Store, version: str, options: ActivationOptions) -> Job:
    """Queue the activation of a registered version, and return the job.

    Raises:
        ModelNotFound: there is no such version.
        ActivationRunning: another activation is queued or running.
        CropsNotKept: some items have no embedding by the version, and their crops were never kept.
        NotCompatible: the strategy is `compatible`, and the card of the version does not say so.
        NotEvaluated: `require_better` is true, and the version was not compared with the active one.
        NotBetter: `require_better` is true, and the version is worse by more than chance explains.
        StorageFull: there is no room for the embeddings that are to be made.
    """
    if options.require_better:
        _check_better(store, version)
    _require_room(store, version)
    with store.change() as change:
        row = change.session.get(Model, version)
        if row is None:
            raise ModelNotFound(version)
        return _queue(change, row, options)


def queue_rollback(store: Store) -> Job:
    """Queue the activation of the previously active version, and return the job.

    Nothing is asked of the disk: most rollbacks embed few items, and a backfill without room fails by itself.

    Raises:
        NothingToRollBackTo: no other version was active before.
        ActivationRunning: an activation is queued or running.
        CropsNotKept: some items have no embedding by that version, and their crops were never kept.
    """
    with store.change() as change:
        before = select(Model).where(Model.state == "retired").order_by(Model.activated_at.desc()).limit(1)
        row = change.session.scalar(before)
        if row is None:
            raise NothingToRollBackTo
        return _queue(change, row, ActivationOptions(), is_rollback=True)


def _queue(change: Transaction, row: Model, options: ActivationOptions, *, is_rollback: bool = False) -> Job:
    session = change.session
    record(model_version=row.version, strategy=options.strategy)
    running = session.scalar(select(Job.id).where(Job.kind == KIND, Job.state.in_(NOT_ENDED)))
    if running is not None:
        raise ActivationRunning(running)
    is_active = active_model(session) == ActiveModel(row.version, row.version)
    if is_active and (done := _last_activation(session, row.version)) is not None:
        return done
    if not is_active:
        _check_possible(session, row, options)
    kept = {
        "strategy": options.strategy,
        "allow_missing": options.allow_missing,
        "is_rollback": is_rollback,
    }
    job = add_job(change, KIND, row.version, kept)
    record(job_id=job.id)
    if is_active:
        job.state, job.finished_at = "succeeded", job.created_at
    return job


def _require_room(store: Store, version: str) -> None:
    """Check that the database has room for the embeddings that an activation has to make.

    Raises:
        StorageFull: there is none.
    """
    with store.read() as session:
        row = session.get(Model, version)
        card = salvage_card(row.card, version)[0] if row else None
        _, num = count_left(session, version)
    if card and num:
        store.room.require_in_database(round(num * (BYTES_PER_NUMBER * card.embedding_size + BYTES_PER_ROW)))


def _last_activation(session: Session, version: str) -> Job | None:
    """Return the job that has put a version in service, so that no further job is needed."""
    done = (Job.kind == KIND, Job.model_version == version, Job.state == "succeeded")
    return session.scalar(select(Job).where(*done).order_by(Job.id.desc()).limit(1))


def _check_better(store: Store, version: str) -> None:
    with store.read() as session:
        active = active_model(session)
        if session.get(Model, version) is None or active is None or active.version == version:
            return
        comparison = comparison_of(session, version, store.settings.track_gap_s)
    if comparison is None:
        raise NotEvaluated(version, active.version)
    if is_worse(comparison):
        raise NotBetter(version, comparison)


def _check_possible(session: Session, row: Model, options: ActivationOptions) -> None:
    active = active_model(session)
    if options.strategy == "compatible" and active and active.version != row.version:
        card, _ = salvage_card(row.card, row.version)
        compatible_with = (card.compatible_with or {}).get("version") if card else None
        if compatible_with != active.version:
            raise NotCompatible(row.version, active.version, compatible_with)
    lost = select(func.count()).select_from(Item).where(~Item.has_crop, ~is_embedded(row.version))
    num = session.scalar(lost) or 0
    if num and not options.allow_missing:
        raise CropsNotKept(row.version, num)
