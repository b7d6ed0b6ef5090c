"""The audit says who did what to whom, and an erasure reaches it."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from audited import rows_of, verified
from keyed import as_key, make_key, store_of
from live_server import crop, enroll, images, search, serve, wait_until
from service.audit.entries import Entry
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


def test_no_text_of_a_caller_is_too_long_for_a_row(either_settings: Settings) -> None:
    with serve(either_settings) as client:
        enroll(client, crop(1), identity_id="anna")
        longest = "e\u0301" * 255  # 510 code points, and 255 letters in the form that is stored
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
