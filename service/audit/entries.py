"""What the audit will say of a request, gathered while the request is carried out.

`Entry` is bound to the context of the request. The functions that change the gallery record what they do, by
`record`, and know nothing of callers. The next commit writes the recorded entry, in the same transaction.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Relation = Literal["target", "returned", "filter", "to", "query", "unlike"]

DONE = "done"
MAX_PEOPLE = 10_000


@dataclass(frozen=True)
class Person:
    """A person, as a row of the audit mentions them.

    Attributes:
        relation: how the request concerns the person.
        identity_id: the identity.
        item_id: an item of the identity.
        score: the score of a match.
    """

    relation: Relation
    identity_id: str | None
    item_id: str | None = None
    score: float | None = None


@dataclass
class Entry:
    """What the audit says of one request.

    Attributes:
        at: when the request came.
        action: what it asks for, as in `RULES`.
        name: the name of the caller's key.
        role: the role of the caller.
        key_id: the id of the key.
        address: the address of the caller.
        request_id: the id of the request.
        outcome: how it ended.
        details: facts that name no person, fit for JSON.
        people: the people whom it concerns.
        kept_queries: hashes of the query crops that are kept on the disk.
        is_recorded: whether the next commit may write the entry.
        is_written: whether a commit has written it.
    """

    at: datetime
    action: str
    name: str
    role: str
    key_id: str | None = None
    address: str | None = None
    request_id: str | None = None
    outcome: str = DONE
    details: dict[str, Any] = field(default_factory=dict)
    people: list[Person] = field(default_factory=list)
    kept_queries: list[str] = field(default_factory=list)
    is_recorded: bool = False
    is_written: bool = False


_entry: ContextVar[Entry | None] = ContextVar("entry", default=None)


@contextmanager
def audited(entry: Entry) -> Iterator[None]:
    """Let an entry record what is done in this context."""
    token = _entry.set(entry)
    try:
        yield
    finally:
        _entry.reset(token)


def current() -> Entry | None:
    """Return the entry of this context, or None where nothing is audited, as in most background tasks."""
    return _entry.get()


def forget() -> None:
    """Forget what was recorded in this context, because its transaction is rolled back."""
    entry = _entry.get()
    if entry is not None and not entry.is_written:
        entry.people, entry.details, entry.is_recorded = [], {}, False


def record(people: Iterable[Person] = (), **details: Any) -> None:
    """Record what is done in this context; the next commit writes the entry.

    Args:
        people: the people whom it concerns; of more than `MAX_PEOPLE` the first are kept, and their number.
        details: facts that name no person, fit for JSON.
    """
    entry = _entry.get()
    if entry is None:
        return
    entry.people += people
    entry.details |= details
    if len(entry.people) > MAX_PEOPLE:
        entry.details["num_people"] = len(entry.people)
        del entry.people[MAX_PEOPLE:]
    entry.is_recorded = True
