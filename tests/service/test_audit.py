"""The audit: who did what, sealed so that no change of the database goes unnoticed."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from command_line import reid
from keyed import as_key, make_key, store_of
from live_server import crop, enroll, images, search, serve, wait_until
from service.audit.chain import Head, head_of
from service.audit.log import Audit
from service.audit.secret import open_secret
from service.audit.verification import Verified, verify
from service.settings import Settings
from service.store.audit_tables import AuditRow

DATABASE = "gallery.sqlite3"


def verified(settings: Settings, expected: Head | None = None) -> Verified:
    """Walk over the chain of a gallery."""
    secret = open_secret(settings)
    with store_of(settings) as store, store.read() as session:
        return verify(session, {secret.name: secret}, expected)


def rows_of(client: httpx.Client, **wanted: Any) -> list[dict[str, Any]]:
    """Read all rows."""
    rows: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = client.get("/audit", params={**wanted, "cursor": cursor, "limit": 7})
        assert page.status_code == 200, page.text
        rows += page.json()["rows"]
        cursor = page.json()["next_cursor"]
    return rows


def mentioned(row: dict[str, Any], relation: str) -> list[str]:
    return [one["identity_id"] for one in row["people"] if one["relation"] == relation]


class Audited(NamedTuple):
    """A service, an admin, and the settings."""

    client: httpx.Client
    admin: httpx.Client
    settings: Settings


@pytest.fixture
def audited(settings: Settings) -> Iterator[Audited]:
    with serve(settings) as client, as_key(client, make_key(settings, "admin", "anna")) as admin:
        yield Audited(client, admin, settings)


def test_a_row_says_who_did_what_to_whom(audited: Audited) -> None:
    admin = audited.admin
    (item,) = enroll(admin, crop(1), identity_id="carl", camera_id="door")
    found = search(
        admin, crop(1, 1), top_k=3, camera_id="door", exclude_identity_id="zoe", attribute="coat=red"
    )
    assert found["matches"] == []
    found = search(admin, crop(1, 1), top_k=3, camera_id="door")
    admin.patch("/identities/carl", json={"name": "Carl Peterson"})
    wait_until(lambda: len(rows_of(admin)) == 4)
    enrolled, filtered, searched, described = sorted(rows_of(admin), key=lambda row: row["at"])
    for row in (enrolled, filtered, searched, described):
        assert (row["name"], row["role"], row["address"]) == ("anna", "admin", "127.0.0.1")
        assert row["outcome"] == "done"
        assert re.fullmatch("[0-9a-f]{12}", row["key_id"])
    assert (enrolled["action"], mentioned(enrolled, "target")) == ("enrol", ["carl"])
    assert enrolled["people"][0]["item_id"] == item["id"]
    assert mentioned(filtered, "filter") == ["zoe"]
    assert filtered["details"]["filters"] == {"camera_id": ["door"], "attribute": ["coat"]}
    assert searched["action"] == "search"
    assert searched["details"]["model_version"] == found["model_version"]
    assert len(searched["details"]["query_sha256"][0]) == 64
    (returned,) = searched["people"]
    assert (returned["identity_id"], returned["item_id"]) == ("carl", item["id"])
    assert returned["score"] == pytest.approx(found["matches"][0]["score"], abs=1e-6)
    assert (described["action"], described["details"]["fields"]) == ("describe_identity", ["name"])
    assert "Carl Peterson" not in json.dumps(rows_of(admin))
    assert [row["action"] for row in rows_of(admin, identity_id="carl")] == [
        "enrol",
        "describe_identity",
        "search",
    ] or (
        {row["action"] for row in rows_of(admin, identity_id="carl")}
        == {"enrol", "describe_identity", "search"}
    )
    assert [row["action"] for row in rows_of(admin, action="search", identity_id="zoe")] == ["search"]
    assert rows_of(admin, until=enrolled["at"]) == []
    assert len(rows_of(admin, since=enrolled["at"], item_id=item["id"])) == 2


def test_each_change_is_written_in_its_transaction(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is written here, so whatever row there is was written by the commit of the change."""
    monkeypatch.setattr(Audit, "flush", lambda _self: None)
    admin = audited.admin
    a, b = enroll(admin, crop(1), crop(2), identity_id="anna", camera_id="door")
    enroll(admin, crop(3), identity_id="bert")
    enroll(admin, crop(4), identity_id="dora")
    version = admin.get("/models").json()["model_version"]
    changes = [
        ("create_identity", "POST", "/identities", {"id": "eve"}),
        ("describe_identity", "PATCH", "/identities/anna", {"notes": "x"}),
        ("correct_item", "PATCH", f"/gallery/{a['id']}", {"track_id": "7"}),
        ("correct_item", "PATCH", f"/gallery/{a['id']}", {"identity_id": "bert"}),
        ("merge", "POST", "/identities/anna/merge", {"source_ids": ["bert"]}),
        ("split", "POST", "/identities/anna/split", {"item_ids": [b["id"]]}),
        ("reject", "POST", "/identities/anna/reject", {"item_ids": [a["id"]]}),
        ("undo", "POST", "/operations/{operation}/undo", None),
        ("evaluate_model", "POST", f"/models/{version}/evaluate", None),
        ("activate_model", "POST", f"/models/{version}/activate", None),
        ("delete_item", "DELETE", f"/gallery/{b['id']}", None),
        ("delete_items", "POST", "/gallery/delete", {"filter": {"identity_id": "bert"}, "expected_count": 0}),
        ("delete_identity", "DELETE", "/identities/eve", None),
        ("delete_identity", "DELETE", "/identities/dora?mode=erase", None),
    ]
    operation = ""
    for action, method, path, body in changes:
        before = len(rows_of(admin))
        answer = admin.request(method, path.format(operation=operation), json=body)
        assert answer.is_success, answer.text
        operation = answer.json()["operation_id"] if path.endswith("/reject") else operation
        rows = rows_of(admin)
        assert [row["action"] for row in rows[before:]] == [action]
        assert rows[-1]["request_id"] == answer.headers["x-request-id"]
    job = admin.post("/gallery", headers={"Prefer": "respond-async"}, files=images(crop(5)))
    assert rows_of(admin)[-1]["details"]["job_id"] == job.json()["id"]
    assert verified(audited.settings).faults == []


def test_what_was_refused_or_replayed_says_so(audited: Audited) -> None:
    settings = audited.settings
    with as_key(audited.client, make_key(settings, "reader", "bert")) as reader:
        reader.delete("/identities/nobody")
        reader.post("/search", files=images(b"no picture"))
    audited.admin.delete("/identities/nobody")
    for _ in range(2):
        headers = {"Idempotency-Key": "once"}
        audited.admin.post("/gallery", headers=headers, files=images(crop(1)))
    audited.client.delete("/identities/nobody")  # without a key: nobody can be named, so the log alone has it
    wait_until(lambda: len(rows_of(audited.admin)) == 5)
    outcomes = {(row["name"], row["action"], row["outcome"]) for row in rows_of(audited.admin)}
    assert outcomes == {
        ("bert", "delete_identity", "refused 403"),
        ("bert", "search", "refused 415"),
        ("anna", "delete_identity", "refused 404"),
        ("anna", "enrol", "done"),
        ("anna", "enrol", "replayed"),
    }


def test_sigterm_writes_what_is_queued(settings: Settings) -> None:
    with serve(settings) as client:
        enroll(client, crop(1))
        for _ in range(5):
            search(client, crop(1))
    assert verified(settings).num_rows == 6


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


def test_an_erasure_reaches_the_audit_and_leaves_the_chain_whole(audited: Audited) -> None:
    admin = audited.admin
    enroll(admin, crop(1), identity_id="the erased one", camera_id="door")
    (other,) = enroll(admin, crop(2), identity_id="another")
    search(admin, crop(1, 1), identity_id=["the erased one", "another"])
    admin.post("/identities/the erased one/merge", json={"source_ids": ["another"]})
    enroll(admin, crop(3), identity_id="bystander")
    search(admin, crop(3, 1))
    wait_until(lambda: len(rows_of(admin)) == 6)
    receipt = admin.delete("/identities/the erased one", params={"mode": "erase"}).json()
    rows = rows_of(admin)
    assert len(rows) == 7
    left = json.dumps(rows)
    for word in ("the erased one", "another", other["id"]):
        assert word not in left
    assert "bystander" in left
    hashes = {one["erased_as"] for row in rows for one in row["people"]} - {None}
    assert hashes == set(receipt["erased"]["audit_hashes"]) == set(rows[-1]["details"]["erased_as"])
    found = verified(audited.settings)
    assert found.faults == []
    assert found.num_erased == receipt["erased"]["audit_rows"] > 4


def test_a_person_who_was_deleted_first_can_be_erased_from_the_audit(audited: Audited) -> None:
    enroll(audited.admin, crop(1), identity_id="gone")
    audited.admin.delete("/identities/gone")
    assert len(rows_of(audited.admin, identity_id="gone")) == 2
    assert audited.admin.delete("/identities/gone", params={"mode": "erase"}).status_code == 404
    assert rows_of(audited.admin, identity_id="gone") == []
    assert verified(audited.settings).faults == []


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


def test_no_word_is_written_of_who_was_erased_before_the_batch(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = Audit.flush
    monkeypatch.setattr(Audit, "flush", lambda _self: None)
    enroll(audited.admin, crop(1), identity_id="gone")
    enroll(audited.admin, crop(2), identity_id="kept")
    search(audited.admin, crop(1))
    audited.admin.delete("/identities/gone", params={"mode": "erase"})
    monkeypatch.setattr(Audit, "flush", flush)
    wait_until(lambda: rows_of(audited.admin, action="search"))
    (row,) = rows_of(audited.admin, action="search")
    assert [one["identity_id"] for one in row["people"]].count("kept") == 1
    assert row["people"][0]["identity_id"] is None
    assert verified(audited.settings).faults == []
