"""Erase for good: rows, embeddings, crops, snapshots, and what the database's files keep of deleted rows.

One transaction takes everything out of the tables and leaves a receipt. What is on the disk goes after the
commit: crops, snapshots, free pages. The receipt says whether that is done, so that a crash in between leaves
it owed, and the next start, or any process that runs, does it.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.errors import DatabaseUnavailable, IdentityNotFound, ServiceError
from service.gallery.items import delete_slots
from service.people.references import (
    erase_answers,
    erase_job_files,
    erase_operations,
    gone_keys,
    operations_on_items,
)
from service.serving.snapshots import Snapshots
from service.store.changes import Transaction
from service.store.database import pages, rewrite
from service.store.doomed import needed_crops
from service.store.store import Store
from service.store.tables import (
    Embedding,
    Erasure,
    Identity,
    Item,
    Rejection,
    now,
)
from service.store.workspace import RESTORING, purge_abandoned

Reason = Literal["requested", "retention", "restored"]

PATIENCE_S = 30
"""How long to wait for readers of the database before its cleaning is left to the background."""

OWED = (
    "the rows are erased, and the database file, which may still hold traces of them, cannot be rewritten "
    "yet: it must be free of long reads, and have as much room again; this is tried again every minute"
)

NOT_CLEANED = (
    "the database file, which may hold traces of deleted rows, cannot be rewritten now: it must be free of "
    "long reads, and have as much room again; send the request again"
)
CLEANED = "; the files were cleaned of all that was deleted before, as an erasure cleans them"


@dataclass(frozen=True)
class Receipt:
    """What an erasure says to a backup from before it."""

    at: datetime
    identity_sha256: str | None
    item_ids: Sequence[str]


@dataclass
class _Counts:
    """How much has been erased of what; `embeddings` by model version."""

    items: int = 0
    embeddings: Counter[str] = field(default_factory=Counter)
    crops: int = 0
    crops_kept_for_others: int = 0
    operations: int = 0
    rejections: int = 0
    kept_answers: int = 0
    job_files: int = 0
    snapshots: int = 0
    cleaned: bool = False


def delete_identity(store: Store, identity_id: str) -> None:
    """Delete an identity and its items, as DELETE /gallery does; traces may stay in the files.

    Raises:
        IdentityNotFound: there is none.
    """
    with store.change() as change:
        key, slots = _found(change.session, identity_id)
        delete_slots(change, slots)
        change.session.execute(delete(Identity).where(Identity.key == key))


def erase_identity(store: Store, identity_id: str) -> Erasure:
    """Erase an identity, its items and all that mentions them, and return the receipt.

    Raises:
        IdentityNotFound: there is none; the files are clean of those that were deleted before.
        DatabaseUnavailable: it is erased, or not there, and the files could not be made clean yet.
    """
    try:
        with store.change() as change:
            key, slots = _found(change.session, identity_id)
            sequence = _erase(change, "requested", slots, {key: identity_id}).sequence
    except IdentityNotFound as error:
        clean(store, is_asked=True)
        raise IdentityNotFound(identity_id, CLEANED) from error
    clean(store)
    return _receipt(store, sequence)


def erase_items(change: Transaction, slots: Sequence[int], reason: Reason) -> Erasure:
    """Erase items, and the identities that go with their last one; `clean` must follow the commit."""
    return _erase(change, reason, slots, {})


def reapply(store: Store, receipts: Iterable[Receipt]) -> list[Erasure]:
    """Erase what these receipts say from a gallery that was restored, and return its own receipts of that.

    A receipt that the gallery has already is passed over: its erasure came before the backup, or was applied
    before. The others are noted, with their own time, even if there is nothing to erase, so that they reach
    older backups too.

    Raises:
        DatabaseUnavailable: it is erased, and the files could not be made clean yet.
    """
    applied = []
    for receipt in receipts:
        with store.change() as change:
            if not _is_known(change.session, receipt):
                applied.append(_reapply(change, receipt).sequence)
    clean(store)
    return [_receipt(store, sequence) for sequence in applied]


def list_erasures(store: Store, limit: int, after: int = 0) -> tuple[list[Erasure], int | None]:
    """Return the next receipts in the order of their erasures, and the number to go on after."""
    statement = select(Erasure).where(Erasure.sequence > after).order_by(Erasure.sequence)
    with store.read() as session:
        erasures = list(session.scalars(statement.limit(limit + 1)))
    is_last = len(erasures) <= limit
    return erasures[:limit], None if is_last else erasures[limit - 1].sequence


def clean(store: Store, patience_s: float = PATIENCE_S, *, is_asked: bool = False) -> None:
    """Let nothing that is erased, or deleted, stay on the disk, if anything is owed or if it is asked for.

    Raises:
        DatabaseUnavailable: if the database file could not be made clean; it is still owed.
    """
    with suppress(ServiceError, SQLAlchemyError):  # not in service yet, or it follows at the next search
        store.follow()
    store.purge_doomed()
    with store.read() as session:
        if not (is_asked or _owed(session)):
            return
    with store.hold_back():
        with store.read() as session:
            owed = _owed(session)
        if is_asked or owed:
            for path in store.crops.unfinished():
                path.unlink(missing_ok=True)
            purge_abandoned(store.settings.data_dir, RESTORING)
            num_snapshots = Snapshots(store.settings.snapshots_dir).delete()
            if not rewrite(store.sessions.engine, patience_s):
                raise DatabaseUnavailable(OWED if owed else NOT_CLEANED)
            _note_cleaned(store, owed, num_snapshots)


def _found(session: Session, identity_id: str) -> tuple[int, Sequence[int]]:
    """Return the key of an identity, and its items.

    Raises:
        IdentityNotFound: there is none.
    """
    key = session.scalar(select(Identity.key).where(Identity.id == identity_id))
    if key is None:
        raise IdentityNotFound(identity_id)
    return key, _slots_of(session, [key])


def _slots_of(session: Session, keys: Collection[int]) -> Sequence[int]:
    return session.scalars(select(Item.slot).where(Item.identity_key.in_(keys)).order_by(Item.slot)).all()


def _receipt(store: Store, sequence: int) -> Erasure:
    with store.read() as session:
        return session.scalars(select(Erasure).where(Erasure.sequence == sequence)).one()


def _sha256(identity_id: str) -> str:
    return hashlib.sha256(identity_id.encode()).hexdigest()


def _is_known(session: Session, receipt: Receipt) -> bool:
    same = select(Erasure).where(Erasure.at == receipt.at)
    return any(
        own.identity_sha256 == receipt.identity_sha256 and set(own.item_ids) >= set(receipt.item_ids)
        for own in session.scalars(same)
    )


def _reapply(change: Transaction, receipt: Receipt) -> Erasure:
    session = change.session
    names: dict[int, str] = {}
    if receipt.identity_sha256 is not None:
        known = session.execute(select(Identity.key, Identity.id))
        names = {key: name for key, name in known if _sha256(name) == receipt.identity_sha256}
    slots = set(_slots_of(session, names))
    for ids in pages(receipt.item_ids):
        slots |= set(session.scalars(select(Item.slot).where(Item.id.in_(ids))))
    erasure = _erase(change, "restored", sorted(slots), names)
    erasure.at = receipt.at
    erasure.identity_sha256 = receipt.identity_sha256
    erasure.item_ids = list(receipt.item_ids) + sorted(set(erasure.item_ids) - set(receipt.item_ids))
    return erasure


def _erase(change: Transaction, reason: Reason, slots: Sequence[int], identities: dict[int, str]) -> Erasure:
    """Erase items, and identities by key and id with all that is said of them, from the tables."""
    session, counts = change.session, _Counts()
    item_ids: list[str] = []
    crops: set[str] = set()
    touched = set(identities)
    for page in pages(slots):
        rows = session.execute(
            select(Item.id, Item.sha256, Item.identity_key).where(Item.slot.in_(page)).order_by(Item.slot)
        ).all()
        item_ids += [row.id for row in rows]
        crops |= {row.sha256 for row in rows}
        touched |= {row.identity_key for row in rows}
        _count(session, page, counts)
    counts.items = len(item_ids)
    counts.rejections += _num_rejections_of(session, identities, slots)
    operations = operations_on_items(session, slots)
    delete_slots(change, slots, "erased")
    for keys in pages(identities):
        session.execute(delete(Identity).where(Identity.key.in_(keys)))
    counts.operations, former = erase_operations(session, operations, gone_keys(session, touched))
    names = set(identities.values()) | former
    counts.job_files = erase_job_files(session, names, crops)
    counts.kept_answers = erase_answers(session, names, item_ids)
    needed = needed_crops(session, sorted(crops))
    counts.crops, counts.crops_kept_for_others = len(crops - needed), len(crops & needed)
    erasure = Erasure(
        sequence=change.note("erased"),
        reason=reason,
        identity_sha256=_sha256(*identities.values()) if len(identities) == 1 else None,
        item_ids=item_ids,
        erased=asdict(counts) | {"embeddings": dict(counts.embeddings)},
        at=now(),
    )
    session.add(erasure)
    return erasure


def _count(session: Session, page: Sequence[int], counts: _Counts) -> None:
    by_version = (
        select(Embedding.model_version, func.count())
        .where(Embedding.slot.in_(page))
        .group_by(Embedding.model_version)
    )
    for version, num in session.execute(by_version):
        counts.embeddings[version] += num
    counts.rejections += _num(session, Rejection, Rejection.slot.in_(page))


def _num(session: Session, table: type[Any], condition: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(table).where(condition)) or 0


def _num_rejections_of(session: Session, keys: Collection[int], slots: Sequence[int]) -> int:
    """Return how many items of others were said not to show these identities."""
    rejected = session.scalars(select(Rejection.slot).where(Rejection.identity_key.in_(keys))).all()
    own = set(slots)
    return sum(slot not in own for slot in rejected)


def _owed(session: Session) -> int:
    """Return the number of the newest erasure if the files are not clean of it, else 0.

    Cleaning is always of everything: if the newest one is cleaned, all are.
    """
    newest = select(Erasure.sequence, Erasure.erased).order_by(Erasure.sequence.desc()).limit(1)
    row = session.execute(newest).first()
    return 0 if row is None or row.erased["cleaned"] else row.sequence


def _note_cleaned(store: Store, newest: int, num_snapshots: int) -> None:
    """Write into the receipts up to this one that nothing is owed any more."""
    before = newest + 1
    with store.write() as session:
        while erasure := session.scalar(
            select(Erasure).where(Erasure.sequence < before).order_by(Erasure.sequence.desc()).limit(1)
        ):
            if erasure.erased["cleaned"]:
                break
            erasure.erased = erasure.erased | {"cleaned": True, "snapshots": num_snapshots}
            before, num_snapshots = erasure.sequence, 0
