"""Receipts of erasures, as the API gives them, and how a gallery that is older than them forgets too.

It is done in a copy of the tables before anything of it is restored: what was erased reaches no disk again.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError
from sqlalchemy import Connection, delete, insert, select, update

from service.errors import RestoreRefused
from service.table_copy import pages, take_out
from service.tables import (
    Change,
    Erasure,
    FormerIdentity,
    Gallery,
    Identity,
    Item,
    JobFile,
    Move,
    Operation,
    now,
)

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Counts(BaseModel):
    """How much was erased then, as the API tells it."""

    items: int = 0
    embeddings: dict[str, int] = {}
    crops: int = 0
    crops_kept_for_others: int = 0
    operations: int = 0
    rejections: int = 0
    kept_answers: int = 0
    job_files: int = 0
    snapshots: int = 0
    cleaned: bool = True


class Receipt(BaseModel):
    """What was erased: items by their ids, and an identity by the SHA-256 of its id.

    `at` tells it from all others, in every gallery that has it.
    """

    at: AwareDatetime
    identity_sha256: Sha256 | None
    item_ids: list[str]
    erased: Counts = Counts()


Receipts = TypeAdapter(list[Receipt])


def read_receipts(path: Path) -> list[Receipt]:
    """Read what `reid erasures` prints, a list of receipts, or one.

    Raises:
        RestoreRefused: if it is none of these.
        OSError: it cannot be read.
    """
    try:
        said = json.loads(path.read_bytes())
        if isinstance(said, dict):
            said = said.get("erasures", [said])
        return Receipts.validate_python(said)
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise RestoreRefused(f"{path} holds no receipts of erasures: {where}: {fault['msg']}") from None
    except ValueError as error:
        raise RestoreRefused(f"{path} holds no receipts of erasures: it is no JSON") from error


def forget(copy: Connection, receipts: Iterable[Receipt]) -> int:
    """Erase what these receipts say from a copy, note them in it, and return how many items went.

    A receipt that the copy has already came before it, and is passed over.
    """
    num = 0
    keys = {_sha256(name): key for key, name in copy.execute(select(Identity.key, Identity.id))}
    for receipt in sorted(receipts, key=lambda one: one.at):
        known = select(Erasure.sequence).where(
            Erasure.at == receipt.at, Erasure.identity_sha256.is_not_distinct_from(receipt.identity_sha256)
        )
        if copy.scalar(known) is None:
            num += _forget(copy, receipt, keys.get(receipt.identity_sha256 or ""))
    return num


def _forget(copy: Connection, receipt: Receipt, key: int | None) -> int:
    slots = set(copy.scalars(select(Item.slot).where(Item.identity_key == key)))
    for ids in pages(receipt.item_ids):
        slots |= set(copy.scalars(select(Item.slot).where(Item.id.in_(ids))))
    ordered = sorted(slots)
    erased_ids = sorted(_all(copy, Item.id, Item.slot, ordered))
    touched = _all(copy, Item.identity_key, Item.slot, ordered) | (set() if key is None else {key})
    operations = _all(copy, Move.operation_id, Move.slot, ordered)
    names = _all(copy, Identity.id, Identity.key, sorted(touched))
    take_out(copy, ordered)
    copy.execute(delete(Identity).where(Identity.key == key))
    gone = touched - _all(copy, Identity.key, Identity.key, sorted(touched))
    names = _forget_operations(copy, operations, gone) | names
    names -= _all(copy, Identity.id, Identity.id, sorted(names))
    _forget_job_files(copy, names)
    _note(copy, receipt, ordered, erased_ids)
    return len(ordered)


def _forget_operations(copy: Connection, operations: set[str], gone: set[int]) -> set[str]:
    """Delete these operations, and all on identities that are gone; return the ids these once had.

    An identity that such an operation did away with was merged into what is erased: it is the same person.
    """
    seen: set[int] = set()
    names: set[str] = set()
    while True:
        keys = sorted(gone - seen)
        seen |= gone
        operations |= _all(copy, FormerIdentity.operation_id, FormerIdentity.identity_key, keys)
        operations |= _all(copy, Move.operation_id, Move.from_key, keys)
        operations |= _all(copy, Move.operation_id, Move.to_key, keys)
        touched = _all(copy, FormerIdentity.identity_key, FormerIdentity.operation_id, sorted(operations))
        gone = touched - _all(copy, Identity.key, Identity.key, sorted(touched))
        if gone <= seen:
            break
    for page in pages(sorted(seen)):
        former = select(FormerIdentity.before, FormerIdentity.after).where(
            FormerIdentity.identity_key.in_(page)
        )
        names |= {str(said["id"]) for row in copy.execute(former) for said in row if said and "id" in said}
    for page in pages(sorted(operations)):
        copy.execute(delete(Operation).where(Operation.id.in_(page)))
    return names


def _forget_job_files(copy: Connection, names: set[str]) -> None:
    label = JobFile.label["identity_id"].as_string()
    for page in pages(sorted(names)):
        copy.execute(delete(JobFile).where(label.in_(page)))


def _note(copy: Connection, receipt: Receipt, slots: Sequence[int], ids: Sequence[str]) -> None:
    """Write into the change log what has gone, and keep the receipt: it must reach older backups too."""
    newest = copy.scalars(select(Gallery.newest_change)).one()
    changes = [
        {"sequence": newest + number, "kind": "erased", "slot": slot, "at": now()}
        for number, slot in enumerate([*slots, None], start=1)
    ]
    copy.execute(insert(Change), changes)
    newest += len(changes)
    copy.execute(update(Gallery).values(newest_change=newest))
    copy.execute(
        insert(Erasure).values(
            sequence=newest,
            reason="restored",
            identity_sha256=receipt.identity_sha256,
            item_ids=receipt.item_ids + sorted(set(ids) - set(receipt.item_ids)),
            erased=receipt.erased.model_dump() | {"cleaned": True},
            at=receipt.at,
        )
    )


def _all(copy: Connection, wanted: Any, column: Any, values: Sequence[Any]) -> set[Any]:
    """Return what rows say whose column has one of these values."""
    found: set[Any] = set()
    for page in pages(values):
        found |= set(copy.scalars(select(wanted).where(column.in_(page))))
    return found


def _sha256(identity_id: str) -> str:
    return hashlib.sha256(identity_id.encode()).hexdigest()
