"""References to people outside of items: operations, pending files of jobs, kept answers.

An erasure of people erases all references to them.
"""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import quote

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from service.gallery.conditions import spellings
from service.store.database import pages
from service.store.doomed import mark_doomed
from service.store.tables import FormerIdentity, Identity, JobFile, KeptAnswer, Move, Operation

ITEM_ID = re.compile(rb"[0-9a-f]{32}")


def operations_on_items(session: Session, slots: Sequence[int]) -> set[str]:
    """Return the ids of the operations that have moved one of these items."""
    found: set[str] = set()
    for page in pages(slots):
        found |= set(session.scalars(select(Move.operation_id).where(Move.slot.in_(page))))
    return found


def gone_keys(session: Session, keys: Collection[int]) -> set[int]:
    """Return those of the keys whose identity no longer exists."""
    left: set[int] = set()
    for page in pages(keys):
        left |= set(session.scalars(select(Identity.key).where(Identity.key.in_(page))))
    return set(keys) - left


def erase_operations(session: Session, operations: set[str], keys: set[int]) -> tuple[int, set[str]]:
    """Delete operations, and all operations on deleted identities.

    An identity that one of these operations deleted was merged into an erased identity. So it is the same
    person, and the operations on it are deleted too.

    Args:
        session: a session that writes.
        operations: the ids of operations on erased items; the ids of the other deleted operations are added.
        keys: the keys of deleted identities.

    Returns:
        The number of deleted operations, and the ids that the deleted identities had.
    """
    names: set[str] = set()
    seen: set[int] = set()
    while True:
        for page in pages(keys - seen):
            operations |= set(
                session.scalars(
                    select(FormerIdentity.operation_id).where(FormerIdentity.identity_key.in_(page))
                )
            )
            operations |= set(
                session.scalars(
                    select(Move.operation_id).where(or_(Move.from_key.in_(page), Move.to_key.in_(page)))
                )
            )
        seen |= keys
        former = [
            row
            for page in pages(sorted(operations))
            for row in session.scalars(
                select(FormerIdentity).where(FormerIdentity.operation_id.in_(page))
            ).all()
        ]
        gone = gone_keys(session, {row.identity_key for row in former})
        deleted = [row for row in former if row.identity_key in gone]
        names |= {str(one["id"]) for row in deleted for one in _descriptions(row)}
        if gone <= seen:
            break
        keys = gone
    for ids in pages(sorted(operations)):
        session.execute(delete(Operation).where(Operation.id.in_(ids)))
    return len(operations), names


def free_spellings(session: Session, names: Collection[str]) -> set[str]:
    """Return the names of deleted identities in every Unicode form, without names that others have now.

    What was kept before the names were brought into one form has the earlier spelling.
    """
    forms = set(spellings(names))
    taken: set[str] = set()
    for page in pages(sorted(forms)):
        taken |= set(session.scalars(select(Identity.id).where(Identity.id.in_(page))))
    return forms - taken


def _descriptions(row: FormerIdentity) -> list[dict[str, Any]]:
    return [one for one in (row.before, row.after) if one and "id" in one]


def erase_job_files(
    session: Session, names: Collection[str], item_ids: Collection[str], crops: set[str]
) -> int:
    """Delete the job files that are labelled with these ids, doom their crops, and count the files.

    Args:
        session: a session that writes.
        names: ids of identities.
        item_ids: ids of items; files that became one, or whose crop was there already as one, are deleted.
        crops: the hashes of the crops are added to this set.
    """
    num = 0
    label = JobFile.label["identity_id"].as_string()
    for column, ids in ((label, names), (JobFile.item_id, item_ids)):
        for page in pages(sorted(ids)):
            found = session.scalars(select(JobFile.sha256).where(column.in_(page))).all()
            sha256s = {sha256 for sha256 in found if sha256}
            mark_doomed(session, sha256s)
            crops |= sha256s
            session.execute(delete(JobFile).where(column.in_(page)))
            num += len(found)
    return num


def erase_answers(session: Session, names: Collection[str], item_ids: Collection[str]) -> int:
    """Delete the kept answers that mention one of these identity or item ids, and return their number."""
    ids = {item_id.encode() for item_id in item_ids}
    quoted = [json.dumps(name, ensure_ascii=flag).encode() for name in names for flag in (True, False)]
    places = tuple(f"/{quote(name, safe=safe)}" for name in names for safe in ("", "/"))
    answers = select(KeptAnswer.key, KeptAnswer.headers, KeptAnswer.body).execution_options(yield_per=100)
    mentioning = [
        key
        for key, headers, body in session.execute(answers)
        if any(text in (body or b"") for text in quoted)
        or not ids.isdisjoint(ITEM_ID.findall(body or b""))
        or any(_ends_with(value, places) for value in headers.values())
    ]
    for page in pages(mentioning):
        session.execute(delete(KeptAnswer).where(KeptAnswer.key.in_(page)))
    return len(mentioning)


def _ends_with(value: object, endings: tuple[str, ...]) -> bool:
    return isinstance(value, str) and value.endswith(endings)
