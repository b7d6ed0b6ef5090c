"""The chain of the audit: each row is sealed together with the seal of the row before.

The seal of a row is the HMAC of its fields and of the seal before it. So no row can be changed, removed or
moved without the secret. Whoever has the whole database can cut rows off the end, unless somebody has noted
the head (number and seal of the newest row) elsewhere; the log has it.

What a row says of a person enters the seal as a commitment, the SHA-256 of the words and of a random salt. An
erasure deletes the words and the salt. The commitment stays, and nobody can tell whose words it was of.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from service.audit.entries import Entry, Person
from service.audit.secret import Secret
from service.errors import AuditBroken
from service.store.audit_tables import AuditChain, AuditPerson, AuditQuery, AuditRow

GENESIS = "0" * 64
WORDS = ("relation", "identity_id", "item_id", "score", "salt")
"""The columns of what a row says of a person, all of which an erasure clears."""

BROKEN_HEAD = (
    "the audit takes no rows, because the number or the seal of its newest row was changed in the database; "
    "`reid audit verify` says what else was"
)
ROWS = AuditRow.metadata.tables[AuditRow.__tablename__]
NAMES = tuple(column.name for column in ROWS.columns)
UNREADABLE = (DataError, ValueError, TypeError, OverflowError)
"""Errors at a value that its column cannot have, because somebody has changed the row."""

PEOPLE = AuditRow.metadata.tables[AuditPerson.__tablename__]
QUERIES = AuditRow.metadata.tables[AuditQuery.__tablename__]


@dataclass(frozen=True)
class Head:
    """The newest row of a chain: its number, and its seal."""

    sequence: int
    mac: str

    def __str__(self) -> str:
        """Return the head in the form in which `reid audit verify --head` takes it."""
        return f"{self.sequence}:{self.mac}"


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


_MAC = re.compile("[0-9a-f]{64}")


def is_mac(value: object) -> bool:
    """Return whether a value from the database has the form of a seal.

    No other value may enter a seal. The sealed text of a row begins with the seal before it, so with 64 hex
    digits. All other sealed texts begin with a word that is not hex. So no seal is of two kinds.
    """
    return isinstance(value, str) and _MAC.fullmatch(value) is not None


def is_number(value: object) -> bool:
    """Return whether a value from the database is a number of a row; SQLite keeps text in any column."""
    return isinstance(value, int)


def canonical(value: Any) -> str:
    """Return JSON of a value in the one form that is sealed."""
    return _canonical.encode(value)


def commitment(person: Person, salt: str) -> str:
    """Return the commitment to what a row says of a person."""
    words = [salt, person.relation, person.identity_id, person.item_id, person.score]
    return hashlib.sha256(canonical(words).encode("utf-8", "surrogatepass")).hexdigest()


def commitment_of(person: AuditPerson) -> str | None:
    """Return the commitment to the words that are in the database, or None if no row can have had them."""
    if person.salt is None or person.relation is None:
        return None
    known = Person(person.relation, person.identity_id, person.item_id, person.score)  # type: ignore[arg-type]
    try:
        return commitment(known, person.salt)
    except (TypeError, ValueError):
        return None


def seal_of(secret: Secret, before: str, row: AuditRow) -> str:
    """Return the seal of a row, given the seal of the row before."""
    fields = [
        row.sequence,
        row.at.astimezone(UTC).isoformat(timespec="microseconds"),
        row.key_id,
        row.name,
        row.role,
        row.address,
        row.request_id,
        row.action,
        row.outcome,
        row.details,
        row.commitments,
    ]
    return secret.mac(f"{before}\n{canonical(fields)}")


def is_sealed(secret: Secret, before: str, row: AuditRow) -> bool:
    """Return whether the seal of a row holds, which it does not over values that no row is sealed with."""
    try:
        return seal_of(secret, before, row) == row.mac
    except (TypeError, ValueError):
        return False


def erasure_seal(secret: Secret, sequence: int, place: int, committed: str, erased_as: str) -> str:
    """Return the seal of an erasure, without which cleared words count as tampered with."""
    return secret.mac(f"erased {sequence} {place} {committed} {erased_as}")


def expiry_seal(secret: Secret, sequence: int, mac: str) -> str:
    """Return the seal of the newest row whose retention is over, where the kept chain begins."""
    return secret.mac(f"expired {sequence} {mac}")


def begins_whole(secrets: Iterable[Secret], chain: AuditChain) -> bool:
    """Return whether the kept chain begins where it always began, or where an expiry has sealed it."""
    if chain.expired == 0:
        return chain.expired_mac == GENESIS
    if not (is_mac(chain.expired_mac) and is_number(chain.expired)):
        return False
    return chain.expired_seal in {expiry_seal(one, chain.expired, chain.expired_mac) for one in secrets}


def locked_chain(session: Session) -> AuditChain:
    """Return the row of the chain, locked, so that no two transactions add rows at a time."""
    return session.scalars(select(AuditChain).with_for_update()).one()


def keyed_hash(secret: Secret, identity_id: str) -> str:
    """Return the hash by which the audit and a receipt name an erased identity."""
    return secret.mac(f"identity {identity_id}")


def append(
    session: Session, secret: Secret, entries: Sequence[Entry], erased: Collection[Person] = ()
) -> Head:
    """Add a row for each entry to the chain, and return the new head.

    Args:
        session: a transaction that writes.
        secret: seals the rows.
        entries: the entries.
        erased: people of the entries who were erased meanwhile. No word about them is written, and no query
            is kept that found or named one of them.

    Raises:
        AuditBroken: the number or the seal of the newest row has not the form of one.
    """
    chain = locked_chain(session)
    if not (is_mac(chain.mac) and is_number(chain.newest)):
        raise AuditBroken(BROKEN_HEAD)
    rows: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = []
    queries: list[dict[str, Any]] = []
    for entry in entries:
        salts = _new_salts(len(entry.people))
        row = AuditRow(
            sequence=chain.newest + 1,
            at=entry.at,
            key_id=entry.key_id,
            name=entry.name,
            role=entry.role,
            address=entry.address,
            request_id=entry.request_id,
            action=entry.action,
            outcome=entry.outcome,
            details=entry.details,
            commitments=[commitment(one, salt) for one, salt in zip(entry.people, salts, strict=True)],
            sealed_by=secret.name,
        )
        row.mac = seal_of(secret, chain.mac, row)
        chain.newest, chain.mac = row.sequence, row.mac
        rows.append({name: getattr(row, name) for name in NAMES})
        for place, (person, salt) in enumerate(zip(entry.people, salts, strict=True)):
            words = _words(person, salt)
            if person in erased:
                words = erased_words(secret, row, place, person.identity_id)
            people.append({"sequence": row.sequence, "place": place, **words})
        if not any(person in erased for person in entry.people):
            queries += [{"sequence": row.sequence, "sha256": sha256} for sha256 in set(entry.kept_queries)]
    session.flush()
    for table, values in ((ROWS, rows), (PEOPLE, people), (QUERIES, queries)):
        if values:  # many rows at once, without an object of the session for each
            session.execute(insert(table), values)
    return Head(chain.newest, chain.mac)


def _new_salts(num: int) -> list[str]:
    """Return so many random salts of 16 bytes, in hex."""
    drawn = secrets.token_hex(16 * num)
    return [drawn[start : start + 32] for start in range(0, 32 * num, 32)]


def _words(person: Person, salt: str) -> dict[str, Any]:
    return {**vars(person), "salt": salt, "erased_as": None, "erasure_mac": None}


def erased_words(secret: Secret, row: AuditRow, place: int, identity_id: str | None) -> dict[str, Any]:
    """Return what is left of the words about a person after an erasure: a keyed hash, and its seal."""
    left = cleared_words(secret, identity_id)
    sealed = erasure_seal(secret, row.sequence, place, row.commitments[place], left["erased_as"])
    return {**left, "erasure_mac": sealed}


def cleared_words(secret: Secret, identity_id: str | None) -> dict[str, Any]:
    """Return the same without the seal, so that `reid audit verify` goes on naming the row."""
    cleared = dict.fromkeys((*WORDS, "erasure_mac"))
    return {**cleared, "erased_as": keyed_hash(secret, identity_id or "")}


def head_of(session: Session) -> Head:
    """Return the head of the chain."""
    found = session.execute(select(AuditChain.newest, AuditChain.mac)).one()
    return Head(found.newest, found.mac)
