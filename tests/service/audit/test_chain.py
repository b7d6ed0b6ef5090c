"""The chain of the audit: whatever is changed, removed or added in the database is found."""

import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import update

from audited import verified
from command_line import reid
from keyed import store_of
from live_server import TIMEOUT_S, crop, enroll, search, serve
from service.audit.chain import Head, head_of
from service.audit.entries import Entry
from service.audit.log import Audit
from service.audit.secret import open_secret
from service.errors import AuditBroken
from service.settings import Settings
from service.store.audit_tables import AuditChain, AuditRow

DATABASE = "gallery.sqlite3"


@pytest.fixture(scope="module")
def written(
    make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Settings, Head]:
    """A gallery with a chain of eight rows, and its head."""
    chosen = make_settings(tmp_path_factory.mktemp("written"))
    with serve(chosen) as client:
        for seed in range(4):
            enroll(client, crop(seed), identity_id=f"person {seed}")
            search(client, crop(seed, 1), top_k=2)
    with store_of(chosen) as store, store.read() as session:
        return chosen, head_of(session)


FORGERIES = {
    "a name": "UPDATE audit_rows SET name = 'somebody else' WHERE sequence = 3",
    "a time": "UPDATE audit_rows SET at = '2020-01-01 00:00:00.000000' WHERE sequence = 3",
    "an outcome": "UPDATE audit_rows SET outcome = 'refused 403' WHERE sequence = 1",
    "a detail": """UPDATE audit_rows SET details = '{"top_k": 1}' WHERE sequence = 2""",
    "the newest row": "UPDATE audit_rows SET action = 'verify' WHERE sequence = 8",
    "a person": "UPDATE audit_people SET identity_id = 'person 3' WHERE sequence = 1",
    "a score": "UPDATE audit_people SET score = 0.1 WHERE score IS NOT NULL",
    "a salt": "UPDATE audit_people SET salt = '00' WHERE sequence = 1",
    "no person": "DELETE FROM audit_people WHERE sequence = 1",
    "another person": "INSERT INTO audit_people (sequence, place, relation) VALUES (1, 9, 'target')",
    "an erasure": """UPDATE audit_people SET relation = NULL, identity_id = NULL, item_id = NULL, salt = NULL,
        erased_as = '00', erasure_mac = '00' WHERE sequence = 1""",
    "a time that is none": "UPDATE audit_rows SET at = 'noon' WHERE sequence = 3",
    "a number as a time": "UPDATE audit_rows SET at = 7 WHERE sequence = 3",
    "details that are no JSON": "UPDATE audit_rows SET details = '{' WHERE sequence = 3",
    "no list of people": "UPDATE audit_rows SET commitments = '7' WHERE sequence = 3",
    "a beginning that is no number": "UPDATE audit_chains SET expired = 'first'",
    "an end that is no number": "UPDATE audit_chains SET newest = 'last'",
    "a row removed": "DELETE FROM audit_rows WHERE sequence = 4",
    "the first rows removed": "DELETE FROM audit_rows WHERE sequence < 4",
    "the first rows expired": """UPDATE audit_chains SET expired = 3, expired_seal = '00',
        expired_mac = (SELECT mac FROM audit_rows WHERE sequence = 3);
        DELETE FROM audit_rows WHERE sequence < 4""",
    "two rows exchanged": """UPDATE audit_rows SET sequence = 99 WHERE sequence = 3;
        UPDATE audit_rows SET sequence = 3 WHERE sequence = 4;
        UPDATE audit_rows SET sequence = 4 WHERE sequence = 99""",
    "a row doubled": """INSERT INTO audit_rows SELECT 9, at, key_id, name, role, address, request_id, action,
        outcome, details, commitments, sealed_by, mac FROM audit_rows WHERE sequence = 8;
        UPDATE audit_chains SET newest = 9""",
    "the last row removed": "DELETE FROM audit_rows WHERE sequence = 8",
    "the last seal": "UPDATE audit_chains SET mac = '00'",
    "the chain": "DELETE FROM audit_chains",
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_row_is_found(written: tuple[Settings, Head], tmp_path: Path, forgery: str) -> None:
    settings = _copy(written[0], tmp_path)
    assert verified(settings).faults == []
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.executescript(f"PRAGMA foreign_keys = OFF; {FORGERIES[forgery]}")
    assert verified(settings).faults


CUT = """DELETE FROM audit_rows WHERE sequence > 5; DELETE FROM audit_people WHERE sequence > 5;
UPDATE audit_chains SET newest = 5, mac = (SELECT mac FROM audit_rows WHERE sequence = 5)"""


def test_an_end_that_was_cut_off_is_found_by_a_noted_head(
    written: tuple[Settings, Head], tmp_path: Path
) -> None:
    settings = _copy(written[0], tmp_path)
    assert verified(settings, written[1]).faults == []
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.executescript(CUT)
    assert verified(settings).faults == []  # whoever has the whole database can do this unseen ...
    assert "cut off" in verified(settings, written[1]).faults[0]  # ... except by a head that was noted


def test_the_command_verifies_and_exports(written: tuple[Settings, Head], tmp_path: Path) -> None:
    settings, head = written
    folder = settings.data_dir
    told = reid("audit", "verify", "--head", str(head), "--json", "--data-dir", folder)
    assert (json.loads(told.stdout)["head"], json.loads(told.stdout)["faults"]) == (str(head), [])
    whole = reid("audit", "verify", "--head", str(head), "--data-dir", folder)
    assert f"head {head}: the chain is whole" in whole.stdout
    assert whole.returncode == 0
    exported = reid("audit", "export", "--action", "search", "--data-dir", folder)
    assert f"head {head}" in exported.stderr
    rows = [json.loads(line) for line in exported.stdout.splitlines()]
    assert [row["action"] for row in rows] == ["search"] * 4
    assert [len(row["people"]) for row in rows] == [1, 2, 2, 2]
    _copy(settings, tmp_path)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.executescript(FORGERIES["a row removed"])
    forged = reid("audit", "verify", "--data-dir", tmp_path)
    assert "rows 4 to 4 were removed" in forged.stdout
    assert forged.returncode == 1


def test_one_row_that_cannot_be_read_is_named_alone(written: tuple[Settings, Head], tmp_path: Path) -> None:
    settings = _copy(written[0], tmp_path)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.executescript(FORGERIES["a time that is none"])
    assert verified(settings, written[1]).faults == ["row 3 was changed: it has a value that cannot be read"]
    exported = reid("audit", "export", "--data-dir", tmp_path)
    assert "has a value that cannot be read" in exported.stderr
    assert exported.returncode == 1


def test_another_secret_does_not_verify(written: tuple[Settings, Head], tmp_path: Path) -> None:
    settings = _copy(written[0], tmp_path)
    (tmp_path / "audit.key").unlink()
    faults = verified(settings).faults
    assert len(faults) == 8
    assert "its secret" in faults[0]
    assert (tmp_path / "audit.key").stat().st_mode & 0o777 == 0o600
    kept = written[0].data_dir / "audit.key"
    assert reid("audit", "verify", "--key-file", kept, "--data-dir", tmp_path).returncode == 0


def _copy(settings: Settings, folder: Path) -> Settings:
    """Copy the database and the secret of a gallery that no server has open."""
    source = sqlite3.connect(settings.data_dir / DATABASE)
    target = sqlite3.connect(folder / DATABASE)
    source.backup(target)
    source.close()
    target.close()
    for name in ("audit.key", ".gallery"):
        if (settings.data_dir / name).exists():
            (folder / name).write_bytes((settings.data_dir / name).read_bytes())
            (folder / name).chmod(0o600)
    chosen = settings.model_dump(exclude={"database_url", "models_dir"}) | {"data_dir": folder}
    return Settings.model_validate(chosen)


def test_old_rows_expire_and_the_chain_still_verifies(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    chosen = make_settings(tmp_path, audit_days=30)
    with serve(chosen) as client:
        for seed in range(3):
            enroll(client, crop(seed))
    with store_of(chosen) as store:
        audit = Audit(store)
        audit.expire()
        assert verified(chosen).num_rows == 3
        with store.write() as session:
            old = session.get_one(AuditRow, 2)
            head = Head(2, old.mac)
        store.settings = chosen.model_copy(update={"audit_days": 1e-9})
        audit.expire()
        found = verified(chosen, head)
        assert (found.num_rows, found.faults) == (0, [])
        with serve(chosen) as client:
            enroll(client, crop(5))
        found = verified(chosen)
        assert (found.num_rows, found.head.sequence, found.faults) == (1, 4, [])
        with sqlite3.connect(tmp_path / DATABASE) as connection:
            connection.execute("UPDATE audit_chains SET expired = 2")
        assert verified(chosen).faults


NO_SEALS = ("", "00", "expired 100 x", "A" * 64, "0" * 63 + "\n", "0" * 65, "erased 1 0 " + "0" * 64)


@pytest.mark.parametrize("text", NO_SEALS)
def test_nothing_is_sealed_after_what_is_no_seal(settings: Settings, text: str) -> None:
    """Such a seal of a row could be taken for the seal of an expiry or of an erasure."""
    with store_of(settings) as store:
        audit = Audit(store)
        audit.queue(Entry(datetime.now(UTC), "search", "anna", "reader"))
        with store.write() as session:
            before = head_of(session).mac
            session.execute(update(AuditChain).values(mac=text))
        with pytest.raises(AuditBroken):
            audit.flush()
        assert audit.num_queued == 1
        assert verified(settings).faults
        with store.write() as session:
            session.execute(update(AuditChain).values(mac=before))
        audit.flush()
    checked = verified(settings)
    assert (checked.num_rows, checked.faults) == (1, [])


def test_no_change_is_made_whose_row_cannot_be_sealed(either_settings: Settings) -> None:
    with serve(either_settings) as client:
        with store_of(either_settings) as store, store.write() as session:
            session.execute(update(AuditChain).values(mac="expired 1 x"))
        answer = client.post("/identities", json={"id": "anna"})
        assert (answer.status_code, answer.json()["code"]) == (503, "audit_broken")
        assert client.get("/identities/anna").status_code == 404


def test_the_seal_of_a_row_is_no_seal_of_an_expiry(settings: Settings) -> None:
    """An older version sealed a row after anything. So such a seal may be in a database already."""
    secret = open_secret(settings)
    with store_of(settings) as store, store.write() as session:
        sealed = secret.mac("expired 100 x\n[1]")
        session.execute(update(AuditChain).values(newest=100, mac="x\n[1]"))
        session.execute(update(AuditChain).values(expired=100, expired_mac="x\n[1]", expired_seal=sealed))
    assert verified(settings).faults


def test_the_first_rows_of_all_processes_are_one_chain(either_settings: Settings) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(8) as threads:
        audits = [Audit(stack.enter_context(store_of(either_settings))) for _ in range(8)]
        for number, audit in enumerate(audits):
            audit.queue(Entry(datetime.now(UTC), "search", f"process {number}", "reader"))
        together = Barrier(8)

        def flush(audit: Audit) -> None:
            together.wait(TIMEOUT_S)
            audit.flush()

        list(threads.map(flush, audits))
    checked = verified(either_settings)
    assert (checked.num_rows, checked.faults) == (8, [])
