"""An erasure clears the words about a person, and seals the place only if they were the words of the row."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from sqlalchemy import select, text
from structlog.testing import capture_logs

from audited import verified
from keyed import store_of
from service.audit.entries import Entry, Person
from service.audit.erasing import Cleared, erase_people
from service.audit.log import Audit
from service.audit.secret import open_secret
from service.settings import Settings
from service.store.audit_tables import AuditPerson
from service.store.store import Store

WORDS = {"relation": "target", "identity_id": "anna", "item_id": "0", "score": 0.5, "salt": "00"}


class Mentioning(NamedTuple):
    """A gallery whose audit mentions two people, one in each row."""

    settings: Settings
    store: Store

    def run(self, statement: str) -> None:
        """Change the database as somebody who has all of it."""
        with self.store.write() as session:
            session.execute(text(statement))

    def erase(self, *names: str, items: tuple[str, ...] = ()) -> tuple[Cleared, list[list[int]]]:
        """Erase people, and return what was cleared, and the rows that each error of the log names."""
        with capture_logs() as lines, self.store.write() as session:
            cleared = erase_people(session, open_secret(self.settings), names, items)
        return cleared, [line["rows"] for line in lines if line["log_level"] == "error"]

    def words(self, sequence: int) -> set[object]:
        """Return what a row says of its people."""
        with self.store.read() as session:
            people = session.scalars(select(AuditPerson).where(AuditPerson.sequence == sequence))
            return {getattr(person, word) for person in people for word in WORDS}


@pytest.fixture
def mentioning(either_settings: Settings) -> Iterator[Mentioning]:
    with store_of(either_settings) as store:
        audit, at = Audit(store), datetime.now(UTC)
        for number, name in enumerate(("victim", "bystander")):
            people = [Person("returned", name, f"item {number}", 0.5)]
            audit.queue(Entry(at, "search", "anna", "reader", people=people))
        audit.flush()
        yield Mentioning(either_settings, store)


def test_the_words_of_a_row_are_erased_and_the_chain_is_whole(mentioning: Mentioning) -> None:
    cleared, errors = mentioning.erase("victim")
    assert (cleared.num_mentions, errors) == (1, [])
    assert mentioning.words(1) == {None}
    assert "bystander" in mentioning.words(2)
    assert verified(mentioning.settings).faults == []


CHANGES = {
    "another name": "UPDATE audit_people SET identity_id = 'junk' WHERE sequence = 1",
    "another item": "UPDATE audit_people SET item_id = 'junk' WHERE sequence = 1",
    "no relation": "UPDATE audit_people SET identity_id = 'junk', relation = NULL WHERE sequence = 1",
    "no salt": "UPDATE audit_people SET identity_id = 'junk', salt = NULL WHERE sequence = 1",
    "no number": "UPDATE audit_people SET identity_id = 'junk', score = {inf} WHERE sequence = 1",
    "another place": "UPDATE audit_people SET identity_id = 'junk', place = 7 WHERE sequence = 1",
    "the place before": "UPDATE audit_people SET item_id = 'junk', place = -1 WHERE sequence = 1",
    "a person added": """INSERT INTO audit_people (sequence, place, relation, identity_id, salt)
        VALUES (1, 1, 'target', 'junk', '00')""",
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_erasure_hides_no_change(mentioning: Mentioning, change: str) -> None:
    inf = "9e999" if "sqlite" in mentioning.settings.database_url else "'Infinity'"
    mentioning.run(CHANGES[change].format(inf=inf))
    cleared, errors = mentioning.erase("junk", items=("junk",))
    assert (cleared.num_mentions, errors) == (1, [[1]])
    assert "junk" not in mentioning.words(1)
    (fault, *_) = verified(mentioning.settings).faults
    assert "row 1" in fault
    mentioning.erase("junk", "victim", items=("junk", "item 0"))  # nor does a later one
    assert mentioning.words(1) == {None}
    assert verified(mentioning.settings).faults


@pytest.mark.parametrize("word", WORDS)
def test_no_word_is_added_to_an_erased_person(mentioning: Mentioning, word: str) -> None:
    mentioning.erase("victim")
    assert verified(mentioning.settings).faults == []
    mentioning.run(f"UPDATE audit_people SET {word} = '{WORDS[word]}' WHERE sequence = 1")  # noqa: S608
    assert verified(mentioning.settings).faults == ["row 1: a person, 0, was erased, and has words again"]


@pytest.mark.parametrize("sequence", [-(2**63), -1, 0])
def test_a_row_that_was_added_before_the_first_is_found(mentioning: Mentioning, sequence: int) -> None:
    mentioning.run(f"""INSERT INTO audit_rows SELECT {sequence}, at, key_id, name, role, address, request_id,
        action, outcome, details, commitments, sealed_by, mac FROM audit_rows WHERE sequence = 1""")  # noqa: S608
    (fault,) = verified(mentioning.settings).faults
    assert fault == f"row {sequence} was added before the beginning of the chain"
