"""The audit says who did what to whom, and an erasure reaches it."""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import pytest
from structlog.testing import capture_logs

from audited import rows_of, verified
from keyed import as_key, make_key, store_of
from live_server import crop, enroll, images, search, serve, wait_until
from service.audit.entries import Entry, Person
from service.audit.log import Audit
from service.settings import Settings


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
    enroll(admin, crop(9), identity_id="zoe", camera_id="hall")
    filters = {"camera_id": "door", "exclude_identity_id": "zoe", "attribute": "coat=red"}
    found = search(admin, crop(1, 1), top_k=3, **filters)
    assert found["matches"] == []
    found = search(admin, crop(1, 1), top_k=3, camera_id="door")
    admin.patch("/identities/carl", json={"name": "Carl Peterson"})
    wait_until(lambda: len(rows_of(admin)) == 5)
    enrolled, _, filtered, searched, described = sorted(rows_of(admin), key=lambda row: row["at"])
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
    of_carl = {row["action"] for row in rows_of(admin, identity_id="carl")}
    assert of_carl == {"enrol", "describe_identity", "search"}
    assert [row["action"] for row in rows_of(admin, action="search", identity_id="zoe")] == ["search"]
    assert rows_of(admin, until=enrolled["at"]) == []
    assert len(rows_of(admin, since=enrolled["at"], item_id=item["id"])) == 2


@pytest.fixture
def _quiet() -> Iterator[None]:
    """Keep what fails on purpose out of the log, whose coloured tracebacks take seconds each."""
    with capture_logs():
        yield


@contextmanager
def no_rows(settings: Settings) -> Iterator[None]:
    """Let the database refuse each new row of the audit."""
    path = settings.data_dir / "gallery.sqlite3"
    for statement in (
        "CREATE TRIGGER no_rows BEFORE INSERT ON audit_rows BEGIN SELECT RAISE(ABORT, 'no rows'); END",
        "DROP TRIGGER no_rows",
    ):
        connection = sqlite3.connect(path, timeout=30)
        connection.execute(statement)
        connection.commit()
        connection.close()
        if statement.startswith("CREATE"):
            yield


@pytest.mark.usefixtures("_quiet")
def test_each_change_is_written_in_its_transaction(audited: Audited) -> None:
    """A change whose row the database refuses is not made, so it can be made once the row can be written."""
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
        path = path.format(operation=operation)
        with no_rows(audited.settings):
            assert admin.request(method, path, json=body).is_server_error
        answer = admin.request(method, path, json=body)
        assert answer.is_success, answer.text
        operation = answer.json()["operation_id"] if path.endswith("/reject") else operation
        (row,) = [one for one in rows_of(admin) if one["request_id"] == answer.headers["x-request-id"]]
        assert (row["action"], row["outcome"]) == (action, "done")
    as_job = {"headers": {"Prefer": "respond-async"}, "files": images(crop(5))}
    for sent in (as_job, {"files": images(crop(6))}):
        with no_rows(audited.settings):
            assert admin.post("/gallery", **sent).is_server_error
        assert admin.post("/gallery", **sent).is_success
    wait_until(lambda: sum(row["outcome"] == "failed 500" for row in rows_of(admin)) == len(changes) + 2)
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
    (receipt,) = audited.admin.get("/erasures").json()["erasures"]
    assert (receipt["erased"]["items"], receipt["erased"]["audit_rows"]) == (0, 2)
    assert receipt["erased"]["cleaned"]
    search(audited.admin, crop(1), exclude_identity_id="gone")
    wait_until(lambda: rows_of(audited.admin, action="search"))
    assert rows_of(audited.admin, identity_id="gone") == []
    assert verified(audited.settings).faults == []


def test_no_word_is_written_of_who_was_erased_before_the_batch(audited: Audited) -> None:
    items = {
        name: enroll(audited.admin, crop(i), identity_id=name)[0] for i, name in enumerate(("gone", "kept"))
    }
    with store_of(audited.settings) as store:
        audit = Audit(store)  # as of another process, whose batch is late
        people = [Person("returned", name, item["id"], 0.9) for name, item in items.items()]
        for _ in range(2):
            audit.queue(
                Entry(at=store.clock.now(), action="search", name="late", role="reader", people=people)
            )
            audited.admin.delete("/identities/gone", params={"mode": "erase"})
            audit.flush()
    search(audited.admin, crop(1), exclude_identity_id="gone")  # a name that was erased is no word either
    wait_until(lambda: len(rows_of(audited.admin, action="search")) == 3)
    for row in rows_of(audited.admin, action="search"):
        assert sorted(str(one["identity_id"]) for one in row["people"]) == ["None", "kept"]
    assert rows_of(audited.admin, identity_id="gone") == []
    assert verified(audited.settings).faults == []


def test_a_sign_in_names_its_key_and_a_failed_one_leaves_no_row(audited: Audited) -> None:
    key = make_key(audited.settings, "reader", "maria")
    assert audited.client.post("/session", json={"key": key[:-1] + "x"}).status_code == 401
    assert audited.client.post("/session", json={"key": key}).status_code == 200
    wait_until(lambda: rows_of(audited.admin))
    (row,) = rows_of(audited.admin)
    assert (row["action"], row["name"], row["role"]) == ("sign_in", "maria", "reader")


def test_no_text_of_a_caller_is_too_long_for_a_row(either_settings: Settings) -> None:
    with serve(either_settings) as client:
        enroll(client, crop(1), identity_id="anna")
        longest = "e\u0301" * 255  # 510 code points, and 255 letters in the form that is stored
        enroll(client, crop(2), identity_id=longest)
        search(client, crop(1), exclude_identity_id=longest)
        wait_until(lambda: rows_of(client, action="search"))
        (row,) = rows_of(client, action="search")
        assert mentioned(row, "filter") == ["\u00e9" * 255]


def test_an_entry_that_the_database_refuses_holds_back_no_other(either_settings: Settings) -> None:
    with serve(either_settings) as client, store_of(either_settings) as store:
        audit, at = Audit(store), store.clock.now()
        for name in ("anna", "b" * 300, "carl"):
            audit.queue(Entry(at=at, action="search", name=name, role="reader"))
        audit.flush()
        assert {"anna", "carl"} <= {row["name"] for row in rows_of(client)}
        assert audit.num_queued == 0
    assert verified(either_settings).faults == []
