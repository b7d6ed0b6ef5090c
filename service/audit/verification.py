"""`reid audit verify`: walks the whole chain, and names each row that was changed, removed or moved."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from service.audit.chain import (
    GENESIS,
    UNREADABLE,
    WORDS,
    Head,
    begins_whole,
    commitment_of,
    erasure_seal,
    is_number,
    is_sealed,
)
from service.audit.secret import Secret
from service.store.audit_tables import AuditChain, AuditPerson, AuditRow

ROWS_AT_ONCE = 1_000


@dataclass(frozen=True)
class Verified:
    """What a walk over the chain has found.

    Attributes:
        num_rows: how many rows are kept.
        num_erased: how many mentions of people were erased.
        head: the newest row.
        faults: a sentence for each fault; none if the chain is whole.
    """

    num_rows: int
    num_erased: int
    head: Head
    faults: list[str]


class _Walk:
    def __init__(self, secrets: Mapping[str, Secret], expected: Head | None) -> None:
        self._secrets = secrets
        self._expected = expected
        self._has_met_head = expected is None
        self.faults: list[str] = []
        self.num_rows = self.num_erased = 0

    def start(self, chain: AuditChain) -> Head:
        """Return the row before the first one that is kept."""
        is_whole = begins_whole(self._secrets.values(), chain)
        if not is_number(chain.expired):
            self.faults.append("the beginning of the chain is no number")
            return self._met(Head(0, GENESIS))
        if chain.expired == 0:
            if not is_whole:
                self.faults.append("the beginning of the chain was changed")
            return self._met(Head(0, GENESIS))
        if not is_whole:
            self.faults.append(f"rows before {chain.expired + 1} are gone, and no retention has removed them")
        elif self._expected is not None and self._expected.sequence < chain.expired:
            self._has_met_head = True  # its row is gone, and the secret has sealed a later one since
        return self._met(Head(chain.expired, chain.expired_mac))

    def take(self, before: Head, row: AuditRow, people: list[AuditPerson]) -> Head:
        """Check one row against the one before, and return it as the next one before."""
        self.num_rows += 1
        if row.sequence <= before.sequence:
            self.faults.append(f"row {row.sequence} was added before the beginning of the chain")
            return before
        if row.sequence != before.sequence + 1:
            gap = f"rows {before.sequence + 1} to {row.sequence - 1}"
            self.faults.append(f"{gap} were removed")
        secret = self._secrets.get(row.sealed_by)
        if secret is None:
            self.faults.append(
                f"row {row.sequence}: its secret, {row.sealed_by}, is not here; give --key-file"
            )
        elif row.sequence == before.sequence + 1 and not is_sealed(secret, before.mac, row):
            self.faults.append(f"row {row.sequence} was changed, or is not where it was")
        self._take_people(row, people)
        return self._met(Head(row.sequence, row.mac))

    def end(self, chain: AuditChain, newest: Head) -> None:
        """Check the end of the chain."""
        if (chain.newest, chain.mac) != (newest.sequence, newest.mac):
            self.faults.append(f"rows after {newest.sequence} were removed, up to {chain.newest}")
        if not self._has_met_head and self._expected is not None:
            self.faults.append(
                f"the chain does not have the head {self._expected}: its end was cut off or rewritten"
            )

    def _met(self, head: Head) -> Head:
        self._has_met_head = self._has_met_head or head == self._expected
        return head

    def take_unreadable(self, row: Head) -> Head:
        """Note a row with a value that its column cannot have, and return the row as the next one before."""
        self.num_rows += 1
        self.faults.append(f"row {row.sequence} was changed: it has a value that cannot be read")
        return self._met(row)

    def _take_people(self, row: AuditRow, people: list[AuditPerson]) -> None:
        found = {person.place: person for person in people}
        for place, committed in enumerate(_listed(row.commitments)):
            person = found.pop(place, None)
            if person is None:
                self.faults.append(f"row {row.sequence} lacks a person, {place}, who was not erased")
            elif person.erased_as is not None:
                self.num_erased += 1
                erased = (row.sequence, place, committed, person.erased_as)
                seals = {erasure_seal(secret, *erased) for secret in self._secrets.values()}
                if person.erasure_mac not in seals:
                    self.faults.append(f"row {row.sequence}: a person, {place}, is cleared without a seal")
                if any(getattr(person, word) is not None for word in WORDS):
                    self.faults.append(
                        f"row {row.sequence}: a person, {place}, was erased, and has words again"
                    )
            elif commitment_of(person) != committed:
                self.faults.append(f"row {row.sequence}: what it says of a person, {place}, was changed")
        if found:
            self.faults.append(f"row {row.sequence} has people who were added: {sorted(found)}")


def verify(session: Session, secrets: Mapping[str, Secret], expected: Head | None = None) -> Verified:
    """Walk over the whole chain.

    Args:
        session: a session that reads.
        secrets: the secrets by their names.
        expected: a head that was noted before; the chain must have this row.
    """
    walk = _Walk(secrets, expected)
    chain = session.scalar(select(AuditChain))
    if chain is None:
        return Verified(0, 0, Head(0, GENESIS), ["the row of the chain was deleted"])
    before = walk.start(chain)
    for row, people in _rows(session):
        before = walk.take_unreadable(row) if isinstance(row, Head) else walk.take(before, row, people)
    walk.end(chain, before)
    return Verified(walk.num_rows, walk.num_erased, before, walk.faults)


def _rows(session: Session) -> Iterator[tuple[AuditRow | Head, list[AuditPerson]]]:
    """Return each row with its people, in the order of the chain; of a row that is unreadable, its `Head`."""
    after: int | None = None  # a row may have any number, if somebody has added it
    while True:
        rows = _page(session, () if after is None else (AuditRow.sequence > after,))
        if not rows:
            return
        people: dict[int, list[AuditPerson]] = {}
        span = AuditPerson.sequence.between(rows[0].sequence, rows[-1].sequence)
        for person in session.scalars(select(AuditPerson).where(span)):
            people.setdefault(person.sequence, []).append(person)
        for row in rows:
            yield row, people.get(row.sequence, [])
        after = rows[-1].sequence
        session.expunge_all()


def _page(session: Session, later: tuple[ColumnElement[bool], ...]) -> Sequence[AuditRow | Head]:
    statement = select(AuditRow).where(*later).order_by(AuditRow.sequence).limit(ROWS_AT_ONCE)
    try:
        return session.scalars(statement).all()
    except UNREADABLE:
        heads = session.execute(statement.with_only_columns(AuditRow.sequence, AuditRow.mac)).all()
        return [_row_of(session, Head(sequence, mac)) for sequence, mac in heads]


def _row_of(session: Session, head: Head) -> AuditRow | Head:
    try:
        return session.get(AuditRow, head.sequence) or head
    except UNREADABLE:
        return head


def _listed(value: object) -> list[str]:
    """Return a list of the database; anything else was changed, so the seal of its row does not hold."""
    return value if isinstance(value, list) else []
