"""Erasing people: nothing of them is left on the disk, and of the others everything is."""

import hashlib
import json
import random
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import delete, event, func, insert, select, update
from sqlalchemy.orm import Session

from killed_server import start_process, wait_for
from live_server import TIMEOUT_S, activate, crop, encode, enroll, find_free_port, search, serve, upload_model
from service.errors import DatabaseUnavailable
from service.people.erasure import Receipt, apply_receipts, erase_items, purge_traces
from service.settings import Settings
from service.store.changes import transaction
from service.store.database import Sessions, make_engine, make_sessions, migrate, rewrite
from service.store.store import Store
from service.store.tables import (
    Attribute,
    Embedding,
    Erasure,
    FormerIdentity,
    Identity,
    Item,
    Job,
    JobFile,
    KeptAnswer,
    Move,
    Operation,
    Rejection,
    new_id,
    now,
)
from service.upkeep.check import check

ERASED = "Q7-unmistakable-name"
CONTROL = "K3-unmistakable-name"


def noise(seed: int) -> bytes:
    """Return a JPEG that has no 64 bytes in common with another."""
    pixels_HWC = np.random.default_rng(seed).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels_HWC))


@contextmanager
def opened(settings: Settings) -> Iterator[Sessions]:
    """Sessions beside a server that may run."""
    engine = make_engine(settings.database_url)
    yield make_sessions(engine)
    engine.dispose()


def erase(client: httpx.Client, identity_id: str) -> dict[str, Any]:
    answer = client.delete(f"/identities/{identity_id}", params={"mode": "erase"})
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


def marks_of(settings: Settings, identity_id: str) -> dict[str, bytes]:
    """Return bytes that only this person's data have: of crops, of embeddings of every version, and names."""
    with opened(settings) as sessions, sessions.read() as session:
        items = session.scalars(select(Item).where(Item.identity.has(id=identity_id))).all()
        stored = session.scalars(select(Embedding).where(Embedding.slot.in_([item.slot for item in items])))
        marks = {f"embedding {row.slot} {row.model_version}": row.values[32:64] for row in stored}
    for item in items:
        path = settings.crops_dir / item.sha256[:2] / item.sha256[2:4] / item.sha256
        content = path.read_bytes()
        marks[f"crop {item.id}"] = content
        marks[f"slice {item.id}"] = content[len(content) // 2 :][:64]
    return marks | {"name": identity_id.encode(), "notes": f"notes on {identity_id}".encode()}


def found_on_disk(settings: Settings, marks: dict[str, bytes]) -> set[str]:
    """Return which of these bytes stand anywhere in a file of the data folder, or of a database beside it."""
    found: set[str] = set()
    for path in settings.data_dir.parent.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found |= {name for name, mark in marks.items() if mark in content}
    return found


def describe(settings: Settings, *identity_ids: str) -> None:
    """Say something about people, as PATCH /identities does."""
    with opened(settings) as sessions, transaction(sessions) as change:
        for identity_id in identity_ids:
            values = {"name": identity_id, "notes": f"notes on {identity_id}", "is_kept": True}
            change.session.execute(update(Identity).where(Identity.id == identity_id).values(values))
            key = change.session.scalars(select(Identity.key).where(Identity.id == identity_id)).one()
            change.session.add(Attribute(identity_key=key, name="hat", value=identity_id))


def shuffle_pages(client: httpx.Client, first: int) -> None:
    """Enrol and delete so many items that rows move from page to page."""
    for start in range(first, first + 80, 40):
        cameras = [{"camera_id": "gone" if seed % 3 else "stays"} for seed in range(40)]
        contents = [crop(seed) for seed in range(start, start + 40)]
        enroll(client, *contents, metadata=json.dumps(cameras))
        order = {"filter": {"camera_id": "gone"}, "expected_count": 26}
        assert client.post("/gallery/delete", json=order).status_code == 200


def fill(settings: Settings, client: httpx.Client, another_checkpoint: Path) -> None:
    """Make a gallery of two people among hundreds of crops, with embeddings of two versions."""
    shuffle_pages(client, 1_000)
    for seed in range(5):
        enroll(client, noise(seed), noise(seed + 10), identity_id=ERASED, camera_id="door")
        enroll(client, noise(seed + 50), noise(seed + 60), identity_id=CONTROL)
    shuffle_pages(client, 2_000)
    describe(settings, ERASED, CONTROL)
    search(client, noise(0))
    version = upload_model(client, another_checkpoint).json()["version"]
    assert activate(client, version)["state"] == "succeeded"
    shuffle_pages(client, 4_000)


def test_nothing_on_the_disk_holds_what_was_erased(
    either_settings: Settings, another_checkpoint: Path
) -> None:
    settings = either_settings
    is_sqlite = settings.database_url.startswith("sqlite")
    with serve(settings) as client:
        fill(settings, client, another_checkpoint)
    gone, kept = marks_of(settings, ERASED), marks_of(settings, CONTROL)
    assert len(gone) == len(kept) == 10 * 2 + 10 * 2 + 2
    if not is_sqlite:  # what is in its tables is on a disk of its own
        gone, kept = ({n: m for n, m in marks.items() if n[0] in "cs"} for marks in (gone, kept))
    with serve(settings) as client:
        assert list(settings.snapshots_dir.glob("index-*"))
        enroll(client, *[crop(seed) for seed in range(5_000, 5_020)])
        assert found_on_disk(settings, gone) == set(gone)
        receipt = erase(client, ERASED)
        assert found_on_disk(settings, gone) == set()
        assert found_on_disk(settings, kept) == set(kept)
        erased = receipt["erased"]
        assert (erased["items"], erased["crops"], erased["snapshots"], erased["cleaned"]) == (10, 10, 1, True)
        assert list(erased["embeddings"].values()) == [10, 10]
        assert search(client, noise(0), top_k=1)["matches"][0]["identity_id"] != ERASED
        shuffle_pages(client, 6_000)
    for _ in range(2):
        assert found_on_disk(settings, gone) == set()
        with serve(settings) as client:
            assert search(client, noise(50))["matches"][0]["identity_id"] == CONTROL
    assert found_on_disk(settings, kept) == set(kept)


def test_rewriting_a_database_leaves_nothing_of_deleted_rows_that_have_moved(tmp_path: Path) -> None:
    """SQLite's own `secure_delete`, on here, wipes only the place where a row was last."""
    path, chance = tmp_path / "gallery.sqlite3", random.Random(0)
    engine = make_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA secure_delete=ON"))
    migrate(engine)
    ids = [f"{'gone' if n % 3 else 'kept'}-{chance.randrange(10**9)}" for n in range(1_000)]
    with make_sessions(engine).write.begin() as session:
        session.execute(insert(Identity), [{"id": name, "created_at": now()} for name in ids])
        for _ in range(2_000):
            words = "w" * chance.randrange(900)
            session.execute(update(Identity).where(Identity.id == chance.choice(ids)).values(notes=words))
        session.execute(delete(Identity).where(Identity.id.startswith("gone-")))
    with engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        assert b"gone-" in path.read_bytes()
        connection.exec_driver_sql("BEGIN")
    assert rewrite(engine, 10)
    for file in tmp_path.iterdir():
        assert b"gone-" not in file.read_bytes()
    assert all(name.encode() in path.read_bytes() for name in ids if name.startswith("kept"))
    engine.dispose()


def test_a_server_that_stops_after_another_has_erased_writes_no_trace(either_settings: Settings) -> None:
    settings = either_settings
    with ExitStack() as second, serve(settings) as first:
        other = second.enter_context(serve(settings))
        enroll(first, noise(1), identity_id=ERASED)
        enroll(first, noise(2), identity_id=CONTROL)
        assert search(other, noise(1))["num_searched"] == 2
        gone, kept = marks_of(settings, ERASED), marks_of(settings, CONTROL)
        erase(first, ERASED)
        second.close()
        assert list(settings.snapshots_dir.glob("index-*"))
        assert found_on_disk(settings, gone) == set()
        crops = {name for name in kept if name[0] in "cs"}
        assert crops <= found_on_disk(settings, kept)
    assert found_on_disk(settings, gone) == set()
    with serve(settings) as client:
        assert search(client, noise(1))["num_searched"] == 1


def test_the_receipt_says_what_was_erased_and_names_nobody(client: httpx.Client) -> None:
    items = enroll(client, crop(1), crop(2), identity_id="a/b ü")
    (other,) = enroll(client, crop(2), identity_id="other")
    answer = client.delete("/identities/a%2Fb%20ü?mode=erase")
    assert answer.status_code == 200
    receipt = answer.json()
    assert receipt["identity_sha256"] == hashlib.sha256("a/b ü".encode()).hexdigest()
    assert receipt["item_ids"] == [item["id"] for item in items]
    assert receipt["reason"] == "requested"
    assert receipt["out_of_reach"]
    erased = receipt["erased"]
    assert (erased["items"], erased["crops"], erased["crops_kept_for_others"]) == (2, 1, 1)
    assert client.get(other["image_url"]).content == crop(2)
    assert client.get(items[0]["image_url"]).status_code == 404
    assert "a/b" not in answer.text
    again = client.delete("/identities/a%2Fb%20ü?mode=erase")
    assert (again.status_code, again.json()["code"]) == (404, "identity_not_found")
    assert client.get("/erasures").json()["erasures"] == [
        {name: value for name, value in receipt.items() if name != "request_id"}
    ]


def test_receipts_come_in_pages_in_their_order(client: httpx.Client) -> None:
    made = []
    for seed in range(3):
        enroll(client, crop(seed), identity_id=f"p{seed}")
        made.append(erase(client, f"p{seed}")["sequence"])
    first = client.get("/erasures", params={"limit": 2}).json()
    second = client.get("/erasures", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [e["sequence"] for page in (first, second) for e in page["erasures"]] == made == sorted(made)
    assert second["next_cursor"] is None
    for wrong in ({"limit": 0}, {"limit": 1001}, {"cursor": "x"}):
        assert client.get("/erasures", params=wrong).status_code == 422


def test_a_plain_deletion_takes_an_identity_and_its_items(
    client: httpx.Client, either_settings: Settings
) -> None:
    enroll(client, crop(1), crop(2), identity_id="anna")
    enroll(client, crop(3), identity_id="bert")
    describe(either_settings, "anna")
    assert client.delete("/identities/anna").status_code == 204
    assert client.delete("/identities/anna").status_code == 404
    assert client.delete("/identities/bert?mode=burn").status_code == 422
    assert search(client, crop(1))["num_searched"] == 1
    assert client.get("/erasures").json()["erasures"] == []
    assert len([path for path in either_settings.crops_dir.rglob("*") if path.is_file()]) == 1
    with opened(either_settings) as sessions, sessions.read() as session:
        assert session.scalars(select(Identity.id)).all() == ["bert"]


def test_erasing_who_was_deleted_before_cleans_the_files_all_the_same(settings: Settings) -> None:
    with serve(settings) as client:
        enroll(client, noise(1), identity_id=ERASED)
        enroll(client, noise(2), identity_id=CONTROL)
        describe(settings, ERASED, CONTROL)
    gone, kept = marks_of(settings, ERASED), marks_of(settings, CONTROL)
    with serve(settings) as client:
        assert client.delete(f"/identities/{ERASED}?mod=erase").status_code == 422
        assert found_on_disk(settings, gone) == set(gone)
        assert client.delete(f"/identities/{ERASED}").status_code == 204
        assert "name" in found_on_disk(settings, gone)
        answer = client.delete(f"/identities/{ERASED}?mode=erase")
        assert (answer.status_code, answer.json()["code"]) == (404, "identity_not_found")
        assert "were purged" in answer.json()["detail"]
        assert found_on_disk(settings, gone) == set()
        assert found_on_disk(settings, kept) == set(kept)


def answer_with(body: bytes, **headers: str) -> KeptAnswer:
    moment = now()
    return KeptAnswer(
        key=new_id(),
        fingerprint="f",
        status=201,
        headers=headers,
        body=body,
        created_at=moment,
        alive_at=moment,
    )


def add_mentions(session: Session, item_id: str) -> None:
    """Let much mention anna (who was once agnes), and as much only bert."""
    keys = {i.id: i.key for i in session.scalars(select(Identity))}
    slots = {i.identity.id: i.slot for i in session.scalars(select(Item))}
    moment = now()
    gone = 10_000  # agnes was merged into agatha, and she into anna
    for name in ("agnes into agatha", "agatha into anna", "bert", "carl"):
        session.add(Operation(id=name, kind="merge", created_at=moment))
    session.add_all(
        Rejection(identity_key=keys[who], slot=slots[whom], created_at=moment)
        for who, whom in (("anna", "bert"), ("bert", "anna"), ("bert", "carl"))
    )
    session.add(Job(id="job", kind="import", state="running", done=0, total=3, created_at=moment))
    session.flush()
    session.add_all(
        FormerIdentity(operation_id=operation, identity_key=key, before={"id": name}, after=None)
        for operation, key, name in (
            ("agnes into agatha", gone, "agnes"),
            ("agnes into agatha", gone + 1, "agatha"),
            ("agatha into anna", gone + 1, "agatha"),
            ("agatha into anna", keys["anna"], "anna"),
            ("bert", keys["bert"], "bert"),
        )
    )
    session.add(Move(operation_id="carl", slot=slots["carl"], from_key=keys["bert"], to_key=keys["carl"]))
    session.add_all(
        JobFile(job_id="job", position=n, name=f"{n}.jpg", sha256=f"{n:064}", label={"identity_id": name})
        for n, name in enumerate(("anna", "agnes", "bert", None))
    )
    session.add_all(
        [
            answer_with(b'{"items": [{"id": "%s"}]}' % item_id.encode()),
            answer_with(b'{"identity_id":"agnes"}'),
            answer_with(b"{}", location="/identities/anna"),
            answer_with(b'{"identity_id":"annabel"}', location="/identities/joanna"),
            answer_with(b'{"id": "%s"}' % new_id().encode()),
        ]
    )


def test_everything_that_mentions_the_erased_goes_and_nothing_else(
    client: httpx.Client, either_settings: Settings
) -> None:
    (item,) = enroll(client, crop(1), identity_id="anna")
    enroll(client, crop(2), identity_id="bert")
    enroll(client, crop(3), identity_id="carl")
    with opened(either_settings) as sessions, transaction(sessions) as change:
        add_mentions(change.session, item["id"])
        change.session.execute(
            update(Item).where(Item.identity.has(id="bert")).values(duplicate_of=item["id"])
        )
    erased = erase(client, "anna")["erased"]
    assert (erased["operations"], erased["rejections"], erased["kept_answers"], erased["job_files"]) == (
        *(2, 2, 3, 2),
    )
    with opened(either_settings) as sessions, sessions.read() as session:
        assert session.scalars(select(Operation.id).order_by(Operation.id)).all() == ["bert", "carl"]
        in_order = select(JobFile).order_by(JobFile.position)
        assert [row.label["identity_id"] for row in session.scalars(in_order)] == ["bert", None]
        bodies = session.scalars(select(KeptAnswer.body)).all()
        assert len(bodies) == 2
        assert session.scalar(select(func.count()).select_from(Rejection)) == 1
        assert session.scalars(select(Item.duplicate_of)).all() == [None, None]
        assert session.scalars(select(Identity.id)).all() == ["bert", "carl"]


@contextmanager
def uncleanable(settings: Settings) -> Iterator[None]:
    """Read an SQLite database all the while, so that its log cannot be emptied."""
    with opened(settings) as sessions, sessions.read() as session:
        session.execute(select(Item.slot)).all()
        yield


def kill_when_erased(sessions: Sessions, process: subprocess.Popen[bytes]) -> None:
    with sessions.read() as session:
        statement = select(Erasure.sequence)
        while session.scalar(statement) is None:
            session.rollback()
    process.send_signal(signal.SIGKILL)


def test_what_a_kill_between_commit_and_cleaning_has_left_is_done_by_the_next_start(
    settings: Settings,
) -> None:
    port = find_free_port()
    process = start_process(settings, port)
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client, opened(settings) as sessions:
        try:
            wait_for(client, process)
            enroll(client, *[noise(seed) for seed in range(20)], identity_id=ERASED)
            enroll(client, noise(90), identity_id=CONTROL)
            gone = marks_of(settings, ERASED)
            with uncleanable(settings), ThreadPoolExecutor(1) as thread:
                thread.submit(kill_when_erased, sessions, process)
                with pytest.raises(httpx.TransportError):
                    erase(client, ERASED)
                process.wait()
                assert "name" in found_on_disk(settings, gone)
        finally:
            process.kill()
            process.wait()
        with sessions.read() as session:
            assert session.scalars(select(Erasure)).one().erased["cleaned"] is False
    with serve(settings) as client:
        assert found_on_disk(settings, gone) == set()
        (receipt,) = client.get("/erasures").json()["erasures"]
        assert receipt["erased"]["cleaned"]
        assert search(client, noise(90))["matches"][0]["identity_id"] == CONTROL


def test_a_start_does_what_is_owed(either_settings: Settings) -> None:
    settings = either_settings
    with serve(settings) as client:
        enroll(client, noise(1), identity_id=ERASED)
    gone = marks_of(settings, ERASED)
    with opened(settings) as sessions:
        for _ in range(2):  # the second erases nothing, and both are owed
            with transaction(sessions) as change:
                erase_items(change, change.session.scalars(select(Item.slot)).all(), "requested")
    assert {name[0] for name in found_on_disk(settings, gone)} >= {"c", "s", "e"}  # in the snapshot at least
    with serve(settings) as client:
        assert found_on_disk(settings, gone) == set()
        receipts = client.get("/erasures").json()["erasures"]
        assert [receipt["erased"]["cleaned"] for receipt in receipts] == [True, True]


def test_an_erasure_whose_cleaning_must_wait_is_owed_until_it_is_done(settings: Settings) -> None:
    with serve(settings) as client, opened(settings) as sessions:
        (item,) = enroll(client, noise(1), identity_id=ERASED)
        gone = marks_of(settings, ERASED)
        store = Store(settings, sessions)
        with uncleanable(settings):
            with transaction(sessions) as change:
                erase_items(change, change.session.scalars(select(Item.slot)).all(), "requested")
            with pytest.raises(DatabaseUnavailable, match="are erased"):
                purge_traces(store, patience_s=0)
            assert client.get("/erasures").json()["erasures"][0]["erased"]["cleaned"] is False
            assert client.get(f"/gallery/{item['id']}").status_code == 404
            enroll(client, noise(2))  # others may write meanwhile
            assert "name" in found_on_disk(settings, gone)
        purge_traces(store)
        assert found_on_disk(settings, gone) == set()
        assert client.get("/erasures").json()["erasures"][0]["erased"]["cleaned"] is True


def test_a_restored_backup_is_rid_of_what_was_erased_after_it(
    client: httpx.Client, either_settings: Settings
) -> None:
    before = erase(client, enroll(client, crop(9), identity_id="anna")[0]["identity_id"])
    first, second = enroll(client, crop(1), crop(2), identity_id="anna")
    (other,) = enroll(client, crop(3), identity_id="bert")
    (kept,) = enroll(client, crop(4), identity_id="carl")
    sha256 = hashlib.sha256(b"anna").hexdigest()
    known = Receipt(datetime.fromisoformat(before["at"]), before["identity_sha256"], before["item_ids"])
    of_anna = Receipt(now(), sha256, [first["id"]])
    of_an_item = Receipt(now(), None, [other["id"], new_id()])
    with opened(either_settings) as sessions:
        store = Store(either_settings, sessions)
        assert apply_receipts(store, [known]) == []
        assert client.get(f"/gallery/{first['id']}").status_code == 200
        own = apply_receipts(store, [known, of_anna, of_an_item])
        (again,) = enroll(client, crop(1), identity_id="anna")
        assert apply_receipts(store, [known, of_anna, of_an_item]) == []
        assert client.delete(f"/gallery/{again['id']}").status_code == 204
    assert [(e.reason, e.identity_sha256, e.erased["cleaned"]) for e in own] == [
        ("restored", sha256, True),
        ("restored", None, True),
    ]
    assert own[0].item_ids == [first["id"], second["id"]]
    assert own[1].item_ids == list(of_an_item.item_ids)
    assert search(client, crop(1))["num_searched"] == 1
    assert client.get(kept["image_url"]).content == crop(4)
    for item in (first, second, other):
        assert client.get(f"/gallery/{item['id']}").status_code == 404
    assert [e["reason"] for e in client.get("/erasures").json()["erasures"]] == [
        *("requested", "restored", "restored"),
    ]


def test_enrolments_beside_erasures_are_erased_or_make_the_identity_anew(
    client: httpx.Client, either_settings: Settings
) -> None:
    def work(number: int) -> list[str]:
        if number % 4 == 3:
            answer = client.delete("/identities/anna", params={"mode": "erase"})
            assert answer.status_code in (200, 404), answer.text
            return list(answer.json().get("item_ids", []))
        return [item["id"] for item in enroll(client, crop(number % 5), crop(number), identity_id="anna")]

    with ThreadPoolExecutor(6) as threads:
        done = list(threads.map(work, range(24)))
    erased = {item_id for number in range(3, 24, 4) for item_id in done[number]}
    enrolled = {item_id for number in range(24) if number % 4 != 3 for item_id in done[number]}
    assert erased <= enrolled
    found = search(client, crop(0), group_by="item", top_k=100)["matches"]
    assert {match["items"][0]["id"] for match in found} == enrolled - erased
    with opened(either_settings) as sessions:
        assert check(Store(either_settings, sessions)).findings == []


def test_searches_go_on_and_never_show_who_is_erased(client: httpx.Client) -> None:
    for person in range(10):
        enroll(client, crop(person), crop(person, 1), identity_id=f"p{person}")
    erased: set[str] = set()

    def look(_: int) -> None:
        gone_before = set(erased)
        found = search(client, crop(0), top_k=100)["matches"]
        assert not gone_before & {match["identity_id"] for match in found}
        assert len(found) >= 10 - 8

    def forget(person: int) -> None:
        erase(client, f"p{person}")
        erased.add(f"p{person}")

    with ThreadPoolExecutor(4) as threads:
        looking = [threads.submit(look, number) for number in range(40)]
        list(map(forget, range(8)))
        for future in looking:
            future.result()
    assert {m["identity_id"] for m in search(client, crop(0))["matches"]} == {"p8", "p9"}


def test_who_was_merged_into_someone_erased_is_erased_too(settings: Settings) -> None:
    with serve(settings) as client:
        for seed, identity_id in enumerate((ERASED, "Q8-also-unmistakable", CONTROL)):
            enroll(client, noise(seed), identity_id=identity_id)
        told = {"name": "Q8-also-a-name", "notes": "n"}
        assert client.patch("/identities/Q8-also-unmistakable", json=told).status_code == 200
        order = {"source_ids": ["Q8-also-unmistakable"]}
        merged = client.post(f"/identities/{ERASED}/merge", json=order)
        assert merged.status_code == 200, merged.text
        gone = marks_of(settings, ERASED) | {"Q8": b"Q8-also-unmistakable", "Q8 name": b"Q8-also-a-name"}
        del gone["notes"]
        assert found_on_disk(settings, gone) == set(gone)
        receipt = erase(client, ERASED)
        assert (receipt["erased"]["items"], receipt["erased"]["operations"]) == (2, 1)
        assert found_on_disk(settings, gone) == set()
        assert client.get(f"/identities/{ERASED}").status_code == 404
        assert client.get(f"/identities/{CONTROL}").status_code == 200
