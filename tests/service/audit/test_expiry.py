"""Rows expire only as they were sealed: what was changed before an expiry is not hidden by it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from sqlalchemy import func, select, text
from structlog.testing import capture_logs

from audited import verified
from command_line import reid
from keyed import store_of
from service.audit.entries import Entry, Person
from service.audit.log import Audit
from service.audit.secret import open_secret, secret_file
from service.errors import AuditBroken
from service.settings import Settings
from service.store.audit_tables import AuditRow
from service.store.store import Store

OLD = datetime(2001, 1, 1, tzinfo=UTC)
NUM_OLD, NUM_NEW = 4, 4
MADE_OLD = "UPDATE audit_rows SET at = '2000-01-01 00:00:00.000000' WHERE sequence <= 6"


class Aged(NamedTuple):
    """A gallery with a chain whose first four rows are to expire, and whose next four are not."""

    settings: Settings
    store: Store
    audit: Audit

    def run(self, *statements: str) -> None:
        """Change the database as somebody who has all of it."""
        with self.store.write() as session:
            for statement in statements:
                session.execute(text(statement))

    def num_kept(self) -> int:
        """Return how many rows there are."""
        with self.store.read() as session:
            return session.scalar(select(func.count()).select_from(AuditRow)) or 0

    def logged(self, times: int = 1) -> list[str]:
        """Let rows expire, and return the reasons of the errors in the log."""
        with capture_logs() as lines:
            for _ in range(times):
                self.audit.expire()
        return [line["reason"] for line in lines if line["log_level"] == "error"]


@pytest.fixture
def aged(either_settings: Settings) -> Iterator[Aged]:
    with _aged(either_settings) as aged:
        yield aged


@contextmanager
def _aged(settings: Settings) -> Iterator[Aged]:
    with store_of(settings) as store:
        audit = Audit(store)
        for at in [OLD] * NUM_OLD + [store.clock.now()] * NUM_NEW:
            people = [Person("returned", f"person {at.year}", "item", 0.5)]
            audit.queue(Entry(at, "search", "anna", "reader", people=people))
        audit.flush()
        yield Aged(settings, store, audit)


def test_rows_as_they_were_sealed_expire(aged: Aged) -> None:
    assert aged.logged() == []
    found = verified(aged.settings)
    assert (found.num_rows, found.faults) == (NUM_NEW, [])
    assert aged.logged() == []


CHANGES = {
    "rows made old": ("row 1 ", [MADE_OLD]),
    "a row made old": ("row 5 ", [MADE_OLD.replace("<= 6", "= 5")]),
    "a row made new": ("row 2 ", ["UPDATE audit_rows SET at = '2999-01-01 00:00:00' WHERE sequence = 2"]),
    "a name": ("row 3 ", ["UPDATE audit_rows SET name = 'bert' WHERE sequence = 3"]),
    "the oldest rows removed": ("row 1 is missing", ["DELETE FROM audit_rows WHERE sequence <= 2"]),
    "a row removed": ("row 3 is missing", ["DELETE FROM audit_rows WHERE sequence = 3"]),
    "another secret": ("row 2 ", ["UPDATE audit_rows SET sealed_by = 'other' WHERE sequence = 2"]),
    "a number that JSON lacks": (
        "row 2 ",
        ["""UPDATE audit_rows SET details = '{"n": 1e999}' WHERE sequence = 2"""],
    ),
    "a row added before": (
        "row -1 was added",
        [
            """INSERT INTO audit_rows SELECT -1, at, key_id, name, role, address, request_id, action,
            outcome, details, commitments, sealed_by, mac FROM audit_rows WHERE sequence = 1"""
        ],
    ),
    "the beginning": (
        "after row 2, is not sealed",
        [
            """UPDATE audit_chains SET expired = 2, expired_seal = 'x',
            expired_mac = (SELECT mac FROM audit_rows WHERE sequence = 2)""",
            "DELETE FROM audit_rows WHERE sequence <= 2",
        ],
    ),
}


UNREADABLE = {"sqlite": "noon", "postgresql": "infinity"}


@pytest.mark.parametrize("sequence", [1, 3])
def test_a_time_that_cannot_be_read_stops_the_expiry(aged: Aged, sequence: int) -> None:
    with aged.store.read() as session:
        at = UNREADABLE[session.get_bind().dialect.name]
    aged.run(f"UPDATE audit_rows SET at = '{at}' WHERE sequence = {sequence}")  # noqa: S608
    assert aged.num_kept() == NUM_OLD + NUM_NEW
    assert len(aged.logged(times=3)) == 1
    assert any("cannot be read" in fault for fault in verified(aged.settings).faults)


def test_rows_of_a_lost_secret_expire_when_somebody_says_that_it_is_lost(aged: Aged) -> None:
    lost = open_secret(aged.settings).name
    secret_file(aged.settings).unlink()
    audit = Audit(aged.store)
    audit.queue(Entry(aged.store.clock.now(), "search", "anna", "reader"))
    audit.flush()
    with capture_logs() as lines:
        audit.expire()
    assert lost in lines[0]["reason"]
    aged.run("UPDATE audit_rows SET name = 'bert' WHERE sequence = 2")  # which nobody can tell any more
    with pytest.raises(AuditBroken, match=lost):
        audit.expire_lost("another")
    assert audit.expire_lost(lost) == (1, NUM_OLD, True)
    found = verified(aged.settings)
    assert found.num_rows == NUM_NEW + 1
    assert [fault for fault in found.faults if f"its secret, {lost}" not in fault] == []
    assert audit.expire_lost(lost).num_rows == 0


def test_no_row_of_a_lost_secret_comes_after_one_of_the_gallery(aged: Aged) -> None:
    aged.run("UPDATE audit_rows SET sealed_by = 'ffffffffffffffff' WHERE sequence = 3")
    with pytest.raises(AuditBroken, match="row 3 is sealed by another secret"):
        aged.audit.expire_lost("f" * 16)
    assert aged.num_kept() == NUM_OLD + NUM_NEW


def test_an_expiry_says_that_the_beginning_could_not_be_checked(aged: Aged) -> None:
    aged.run(
        "DELETE FROM audit_rows WHERE sequence <= 2",
        "UPDATE audit_chains SET expired = 2, expired_mac = (SELECT mac FROM audit_rows WHERE sequence = 7)",
        "UPDATE audit_rows SET sealed_by = 'ffffffffffffffff' WHERE sequence = 3",
    )
    assert aged.audit.expire_lost("f" * 16).was_sealed is False


def test_the_command_expires_rows_of_a_lost_secret_and_leaves_a_row(settings: Settings) -> None:
    with _aged(settings) as aged:
        lost = open_secret(settings).name
        secret_file(settings).unlink()
        told = reid("audit", "expire", "--sealed-by", lost, "--data-dir", settings.data_dir)
        assert (told.returncode, told.stdout) == (0, f"{NUM_OLD} rows deleted\n")
        assert aged.num_kept() == NUM_NEW + 1
        with aged.store.read() as session:
            newest = session.scalars(select(AuditRow).order_by(AuditRow.sequence.desc()).limit(1)).one()
            assert (newest.action, newest.details) == (
                "expire_audit",
                {"sealed_by": lost, "first": 1, "last": NUM_OLD, "was_sealed": True},
            )


def test_the_secret_of_the_gallery_is_not_lost(settings: Settings) -> None:
    with _aged(settings) as aged:
        aged.run("UPDATE audit_rows SET name = 'bert' WHERE sequence = 3")
        with pytest.raises(AuditBroken, match="is the secret of this gallery"):
            aged.audit.expire_lost(open_secret(settings).name)
        assert aged.num_kept() == NUM_OLD + NUM_NEW
        assert verified(settings).faults


@pytest.mark.parametrize("change", CHANGES)
def test_no_expiry_hides_a_change(aged: Aged, change: str) -> None:
    named, statements = CHANGES[change]
    aged.run(*statements)
    before = aged.num_kept()
    (reason,) = aged.logged(times=3)
    assert named in reason
    assert aged.num_kept() == before
    assert verified(aged.settings).faults


def test_rows_expire_again_once_the_change_is_undone(aged: Aged) -> None:
    undone = "UPDATE audit_rows SET name = 'anna' WHERE sequence = 3"
    aged.run(undone.replace("anna", "bert"))
    assert len(aged.logged()) == 1
    aged.run(undone)
    assert aged.logged() == []
    assert aged.num_kept() == NUM_NEW
    assert verified(aged.settings).faults == []


def test_a_row_whose_clock_was_set_back_waits_for_those_before_it(either_settings: Settings) -> None:
    with store_of(either_settings) as store:
        audit = Audit(store)
        for at in (OLD, store.clock.now(), OLD):
            audit.queue(Entry(at, "search", "anna", "reader"))
        audit.flush()
        aged = Aged(either_settings, store, audit)
        assert aged.logged(times=2) == []
        assert aged.num_kept() == 2
    assert verified(either_settings).faults == []
