"""Receipts of erasures, applied to a gallery that was restored from an older backup."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from model.data.names import unicode_forms
from service.audit.secret import Secret, open_secret
from service.people.erasure import erase_rows, find_receipt, hash_of_name, purge_traces, slots_of
from service.store.changes import Transaction
from service.store.database import pages
from service.store.store import Store
from service.store.tables import Erasure, Identity, Item


@dataclass(frozen=True)
class Receipt:
    """The fields of a receipt that are needed to repeat the erasure on a restored backup."""

    at: datetime
    identity_sha256: str | None
    item_ids: Sequence[str]


def apply_receipts(store: Store, receipts: Iterable[Receipt]) -> list[Erasure]:
    """Repeat erasures on a restored gallery, and return the receipts that the gallery did not have.

    A receipt that the gallery has already is skipped, because its erasure is older than the backup or was
    applied before. Any other receipt is stored with its time, even if there is nothing to erase, so that the
    receipt can be applied to older backups too.

    Raises:
        DatabaseUnavailable: the rows are erased, but the purge is not done yet.
    """
    applied = []
    secret = open_secret(store.settings)
    for receipt in receipts:
        with store.change() as change:
            if not _is_known(change.session, receipt):
                applied.append(_apply(change, secret, receipt).sequence)
    purge_traces(store)
    return [find_receipt(store, sequence) for sequence in applied]


def _is_known(session: Session, receipt: Receipt) -> bool:
    same = select(Erasure).where(Erasure.at == receipt.at)
    return any(
        own.identity_sha256 == receipt.identity_sha256 and set(own.item_ids) >= set(receipt.item_ids)
        for own in session.scalars(same)
    )


def _apply(change: Transaction, secret: Secret, receipt: Receipt) -> Erasure:
    session = change.session
    names = _named_by(session, receipt)
    slots = set(slots_of(session, names))
    for ids in pages(receipt.item_ids):
        slots |= set(session.scalars(select(Item.slot).where(Item.id.in_(ids))))
    erasure = erase_rows(change, secret, "restored", sorted(slots), names)
    erasure.at = receipt.at
    erasure.identity_sha256 = receipt.identity_sha256
    erasure.item_ids = list(receipt.item_ids) + sorted(set(erasure.item_ids) - set(receipt.item_ids))
    return erasure


def _named_by(session: Session, receipt: Receipt) -> dict[int, str]:
    """Return the id of the identity that a receipt names, by its key.

    An older backup may have the name in another Unicode form. Such an identity is named if no other has
    exactly the name of the receipt.
    """
    if receipt.identity_sha256 is None:
        return {}
    exact: dict[int, str] = {}
    alike: dict[int, str] = {}
    for key, name in session.execute(select(Identity.key, Identity.id)):
        if hash_of_name(name) == receipt.identity_sha256:
            exact[key] = name
        elif not name.isascii() and receipt.identity_sha256 in map(hash_of_name, unicode_forms(name)):
            alike[key] = name
    return exact or alike
