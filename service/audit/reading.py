"""Read rows of the audit with the people in them, page by page."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.audit.chain import UNREADABLE
from service.errors import AuditBroken
from service.store.audit_tables import AuditPerson, AuditRow

ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class Wanted:
    """Which rows are wanted; a field that is None is no condition.

    Attributes:
        action: the action.
        key_id: the key of the caller.
        identity_id: an identity that the row mentions.
        item_id: an item that the row mentions.
        since: the earliest time.
        until: the time before which the rows are.
    """

    action: str | None = None
    key_id: str | None = None
    identity_id: str | None = None
    item_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def read_rows(
    session: Session, wanted: Wanted, limit: int, after: int = 0
) -> tuple[list[tuple[AuditRow, list[AuditPerson]]], int | None]:
    """Return a page of rows in the order of the chain, each with its people.

    Returns:
        The rows, and the number after which the next page begins, or None on the last page.

    Raises:
        AuditBroken: a row was changed in the database, and cannot be read.
    """
    statement = select(AuditRow).where(AuditRow.sequence > after, *_conditions(wanted))
    try:
        rows = session.scalars(statement.order_by(AuditRow.sequence).limit(limit + 1)).all()
    except UNREADABLE as error:
        raise AuditBroken(
            f"a row after row {after} was changed in the database, and has a value that cannot be read; "
            "`reid audit verify` says which"
        ) from error
    shown = rows[:limit]
    people: dict[int, list[AuditPerson]] = {row.sequence: [] for row in shown}
    mentioned = select(AuditPerson).where(AuditPerson.sequence.in_(people))
    for person in session.scalars(mentioned.order_by(AuditPerson.sequence, AuditPerson.place)):
        people[person.sequence].append(person)
    last = shown[-1].sequence if len(rows) > limit else None
    return [(row, people[row.sequence]) for row in shown], last


def all_rows(session: Session, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Return all wanted rows, as `fields_of` shows them."""
    after: int | None = 0
    while after is not None:
        page, after = read_rows(session, wanted, ROWS_AT_ONCE, after)
        for row, people in page:
            yield fields_of(row, people)
        session.expunge_all()


def fields_of(row: AuditRow, people: list[AuditPerson]) -> dict[str, Any]:
    """Return a row as the API and the export show it."""
    names = ("sequence", "at", "key_id", "name", "role", "address", "request_id", "action", "outcome")
    return {
        **{name: getattr(row, name) for name in names},
        "details": row.details,
        "people": [_person(person) for person in people],
        "commitments": row.commitments,
        "sealed_by": row.sealed_by,
        "mac": row.mac,
    }


def _person(person: AuditPerson) -> dict[str, Any]:
    if person.erased_as is not None:
        return {"erased_as": person.erased_as}
    return {
        "relation": person.relation,
        "identity_id": person.identity_id,
        "item_id": person.item_id,
        "score": person.score,
        "salt": person.salt,
    }


def _conditions(wanted: Wanted) -> Iterator[Any]:
    if wanted.action is not None:
        yield AuditRow.action == wanted.action
    if wanted.key_id is not None:
        yield AuditRow.key_id == wanted.key_id
    if wanted.since is not None:
        yield AuditRow.at >= wanted.since
    if wanted.until is not None:
        yield AuditRow.at < wanted.until
    for column, value in (
        (AuditPerson.identity_id, wanted.identity_id),
        (AuditPerson.item_id, wanted.item_id),
    ):
        if value is not None:
            yield AuditRow.sequence.in_(select(AuditPerson.sequence).where(column == value))
