"""Erase for good: rows, embeddings, crops, snapshots, and copies of deleted rows in the database files.

One transaction deletes the rows and adds a receipt. After the commit the traces on the disk are purged:
crops, snapshots, and free pages of the database file. The receipt says whether the purge is done. So after a
crash in between, the next start, or any other running process, completes the purge.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from model.data.names import unicode_forms
from service.audit.entries import Person, record
from service.audit.erasing import erase_people
from service.audit.secret import Secret, open_secret
from service.errors import DatabaseUnavailable, IdentityNotFound, ServiceError
from service.gallery.items import delete_slots, find_identity
from service.people.references import (
    erase_answers,
    erase_job_files,
    erase_operations,
    free_spellings,
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
    ReplacedEmbedding,
    now,
)
from service.store.workspace import RESTORING, purge_abandoned

Reason = Literal["requested", "retention", "restored"]

PATIENCE_S = 30
"""How long a purge waits for readers of the database, in seconds, before a background task takes over."""

OWED = (
    "the rows are erased, but the database file, which may still hold traces of them, cannot be rewritten "
    "yet: no long read may run, and the disk needs as much free room as the file has; the service tries "
    "again every minute"
)

NOT_PURGED = (
    "the database file, which may hold traces of deleted rows, cannot be rewritten now: no long read may "
    "run, and the disk needs as much free room as the file has; send the request again"
)
PURGED = "; the traces of everything that was deleted before were purged from the files"


@dataclass
class _Counts:
    """How much was erased; `embeddings` counts by model version, `cleaned` is true after the purge.

    `replaced_embeddings` are embeddings that `reid check --repair` had replaced and still kept. The
    `audit_hashes` stand in the audit in the place of the erased identities; `audit_queries` are kept crops of
    searches that found the erased person.
    """

    items: int = 0
    embeddings: Counter[str] = field(default_factory=Counter)
    replaced_embeddings: int = 0
    crops: int = 0
    crops_kept_for_others: int = 0
    operations: int = 0
    rejections: int = 0
    kept_answers: int = 0
    job_files: int = 0
    audit_rows: int = 0
    audit_hashes: list[str] = field(default_factory=list)
    audit_queries: int = 0
    snapshots: int = 0
    cleaned: bool = False


def delete_identity(store: Store, identity_id: str) -> None:
    """Delete an identity and its items; unlike `erase_identity` this may leave traces in the files.

    Raises:
        IdentityNotFound: there is no such identity.
    """
    with store.change(makes_room=True) as change:
        identity, slots = _found(change.session, identity_id)
        record([Person("target", identity.id)], num_items=len(slots))
        delete_slots(change, slots)
        change.session.execute(delete(Identity).where(Identity.key == identity.key))


def erase_identity(store: Store, identity_id: str) -> Erasure:
    """Erase an identity, its items and everything that mentions them, and return the receipt.

    Raises:
        IdentityNotFound: there is no such identity; the traces of deleted identities were purged.
        DatabaseUnavailable: the identity is erased, or does not exist, but the purge is not done yet.
    """
    try:
        with store.change(makes_room=True) as change:
            identity, slots = _found(change.session, identity_id)
            secret = open_secret(store.settings)
            erasure = erase_rows(change, secret, "requested", slots, {identity.key: identity.id})
            sequence = erasure.sequence
    except IdentityNotFound as error:
        _forget_in_audit(store, identity_id)
        purge_traces(store, is_asked=True)
        raise IdentityNotFound(identity_id, PURGED) from error
    purge_traces(store)
    return find_receipt(store, sequence)


def _forget_in_audit(store: Store, identity_id: str) -> None:
    """Clear what the audit says of an identity that was deleted before, and not erased, and add a receipt."""
    secret, counts = open_secret(store.settings), _Counts()
    with store.change() as change:
        names = set(unicode_forms(identity_id))
        cleared = erase_people(change.session, secret, names, ())
        if cleared.num_mentions:
            counts.audit_rows, counts.audit_hashes, counts.audit_queries = cleared
            _add_receipt(change, "requested", hash_of_name(identity_id), [], counts)


def erase_items(change: Transaction, secret: Secret, slots: Sequence[int], reason: Reason) -> Erasure:
    """Erase items, and identities with their last item; `purge_traces` must follow the commit."""
    return erase_rows(change, secret, reason, slots, {})


def list_erasures(store: Store, limit: int, after: int = 0) -> tuple[list[Erasure], int | None]:
    """Return a page of receipts in the order of the erasures.

    Args:
        store: the gallery.
        limit: most receipts of the page.
        after: the sequence number after which the page begins.

    Returns:
        The receipts, and the number after which the next page begins, or None on the last page.
    """
    statement = select(Erasure).where(Erasure.sequence > after).order_by(Erasure.sequence)
    with store.read() as session:
        erasures = list(session.scalars(statement.limit(limit + 1)))
    is_last = len(erasures) <= limit
    return erasures[:limit], None if is_last else erasures[limit - 1].sequence


def purge_traces(store: Store, patience_s: float = PATIENCE_S, *, is_asked: bool = False) -> None:
    """Purge every trace of erased and deleted rows from the disk, if an erasure is not purged yet.

    Args:
        store: the gallery.
        patience_s: how long to wait for readers of the database, in seconds.
        is_asked: whether to purge even if every erasure is purged.

    Raises:
        DatabaseUnavailable: the database file could not be rewritten; the purge is still owed.
    """
    with suppress(ServiceError, SQLAlchemyError):  # no index yet, or the next search refreshes the index
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
                raise DatabaseUnavailable(OWED if owed else NOT_PURGED)
            _note_purged(store, owed, num_snapshots)


def _found(session: Session, identity_id: str) -> tuple[Identity, Sequence[int]]:
    """Return an identity, and the slots of its items.

    Raises:
        IdentityNotFound: there is no such identity.
    """
    identity = find_identity(session, identity_id)
    return identity, slots_of(session, [identity.key])


def slots_of(session: Session, keys: Collection[int]) -> Sequence[int]:
    """Return the slots of the items of these identities."""
    return session.scalars(select(Item.slot).where(Item.identity_key.in_(keys)).order_by(Item.slot)).all()


def find_receipt(store: Store, sequence: int) -> Erasure:
    """Return the receipt with this number."""
    with store.read() as session:
        return session.scalars(select(Erasure).where(Erasure.sequence == sequence)).one()


def hash_of_name(identity_id: str) -> str:
    """Return the SHA-256 by which a receipt names an identity."""
    return hashlib.sha256(identity_id.encode()).hexdigest()


def erase_rows(
    change: Transaction, secret: Secret, reason: Reason, slots: Sequence[int], identities: dict[int, str]
) -> Erasure:
    """Delete items, identities and everything that mentions them from the tables; add and return the receipt.

    Args:
        change: the transaction.
        secret: the secret of the audit.
        reason: the reason in the receipt.
        slots: the slots of the items.
        identities: the id of each identity, by its key.
    """
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
    known = dict(session.execute(select(Identity.key, Identity.id).where(Identity.key.in_(touched))).all())
    counts.rejections += _num_rejections_of(session, identities, slots)
    operations = operations_on_items(session, slots)
    delete_slots(change, slots, "erased")
    for keys in pages(identities):
        session.execute(delete(Identity).where(Identity.key.in_(keys)))
    counts.operations, former = erase_operations(session, operations, gone_keys(session, touched))
    names = free_spellings(session, former.union(identities.values()))
    counts.job_files = erase_job_files(session, names, item_ids, crops)
    counts.kept_answers = erase_answers(session, names, item_ids)
    gone = names | {known[key] for key in gone_keys(session, touched) if key in known}
    cleared = erase_people(session, secret, gone, item_ids)
    counts.audit_rows, counts.audit_hashes, counts.audit_queries = cleared
    needed = needed_crops(session, sorted(crops))
    counts.crops, counts.crops_kept_for_others = len(crops - needed), len(crops & needed)
    name = hash_of_name(*identities.values()) if len(identities) == 1 else None
    return _add_receipt(change, reason, name, item_ids, counts)


def _add_receipt(
    change: Transaction, reason: Reason, name: str | None, item_ids: list[str], counts: _Counts
) -> Erasure:
    erasure = Erasure(
        sequence=change.note("erased"),
        reason=reason,
        identity_sha256=name,
        item_ids=item_ids,
        erased=asdict(counts) | {"embeddings": dict(counts.embeddings)},
        at=now(),
    )
    change.session.add(erasure)
    record(erasure=erasure.sequence, erased_as=counts.audit_hashes, num_items=counts.items)
    return erasure


def _count(session: Session, page: Sequence[int], counts: _Counts) -> None:
    by_version = (
        select(Embedding.model_version, func.count())
        .where(Embedding.slot.in_(page))
        .group_by(Embedding.model_version)
    )
    for version, num in session.execute(by_version):
        counts.embeddings[version] += num
    counts.replaced_embeddings += _num(session, ReplacedEmbedding, ReplacedEmbedding.slot.in_(page))
    counts.rejections += _num(session, Rejection, Rejection.slot.in_(page))


def _num(session: Session, table: type[Any], condition: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(table).where(condition)) or 0


def _num_rejections_of(session: Session, keys: Collection[int], slots: Sequence[int]) -> int:
    """Return the number of items outside `slots` that were rejected for these identities."""
    rejected = session.scalars(select(Rejection.slot).where(Rejection.identity_key.in_(keys))).all()
    own = set(slots)
    return sum(slot not in own for slot in rejected)


def _owed(session: Session) -> int:
    """Return the sequence number of the newest erasure if its traces are not purged yet, else 0.

    A purge is always of everything. So if the newest erasure is purged, all erasures are.
    """
    newest = select(Erasure.sequence, Erasure.erased).order_by(Erasure.sequence.desc()).limit(1)
    row = session.execute(newest).first()
    return 0 if row is None or row.erased["cleaned"] else row.sequence


def _note_purged(store: Store, newest: int, num_snapshots: int) -> None:
    """Store in the receipts up to `newest` that their traces are purged."""
    before = newest + 1
    with store.write() as session:
        while erasure := session.scalar(
            select(Erasure).where(Erasure.sequence < before).order_by(Erasure.sequence.desc()).limit(1)
        ):
            if erasure.erased["cleaned"]:
                break
            erasure.erased = erasure.erased | {"cleaned": True, "snapshots": num_snapshots}
            before, num_snapshots = erasure.sequence, 0
