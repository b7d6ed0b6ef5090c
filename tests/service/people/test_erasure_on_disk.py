"""Nothing of an erased person is left in any file of the data folder, whatever dies in between."""

import json
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import delete, event, insert, select, update

from erased import CONTROL, ERASED, describe, erase, found_on_disk, marks_of, noise, opened
from forked import Fork
from killed_server import start_process, wait_for
from live_server import TIMEOUT_S, activate, crop, enroll, find_free_port, search, serve, upload_model
from service.audit.secret import open_secret
from service.errors import DatabaseUnavailable
from service.people.erasure import erase_items, purge_traces
from service.settings import Settings
from service.store.changes import transaction
from service.store.database import Sessions, make_engine, make_sessions, migrate, rewrite
from service.store.store import Store
from service.store.tables import (
    Erasure,
    Identity,
    Item,
    now,
)


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


@contextmanager
def uncleanable(settings: Settings) -> Iterator[None]:
    """Read an SQLite database all the while, so that its log cannot be emptied."""
    with opened(settings) as sessions, sessions.read() as session:
        session.execute(select(Item.slot)).all()
        yield


def kill_when_erased(sessions: Sessions, process: Fork) -> None:
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
                slots = change.session.scalars(select(Item.slot)).all()
                erase_items(change, open_secret(settings), slots, "requested")
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
                slots = change.session.scalars(select(Item.slot)).all()
                erase_items(change, open_secret(settings), slots, "requested")
            with pytest.raises(DatabaseUnavailable, match="are erased"):
                purge_traces(store, patience_s=0)
            assert client.get("/erasures").json()["erasures"][0]["erased"]["cleaned"] is False
            assert client.get(f"/gallery/{item['id']}").status_code == 404
            enroll(client, noise(2))  # others may write meanwhile
            assert "name" in found_on_disk(settings, gone)
        purge_traces(store)
        assert found_on_disk(settings, gone) == set()
        assert client.get("/erasures").json()["erasures"][0]["erased"]["cleaned"] is True


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
