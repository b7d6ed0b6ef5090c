"""A backup of a gallery is whole beside a busy server, and restored into any kind of database."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from archives import tar_of
from backed_up import MakeSettings, abandon, back_up, findings, opened
from live_server import activate, crop, enroll, search, serve, upload_model, wait_for_job
from service.errors import BadBackup, BadSettings, NotEmpty
from service.settings import Settings
from service.store.crops import CropStore
from service.store.tables import Job, JobFile, now
from service.store.workspace import BACKING_UP, RESTORING, workspace
from service.upkeep.backup import backup, open_gallery
from service.upkeep.restore import read_receipts, restore


def seen(client: httpx.Client) -> dict[str, Any]:
    """What a gallery answers, but for what is said of requests."""
    identities = client.get("/identities").json()["identities"]
    found = search(client, crop(1), crop(2), group_by="item", top_k=100)["matches"]
    scores = {match["items"][0]["id"]: round(match["score"], 4) for match in found}
    return {"identities": identities, "items": client.get("/gallery").json()["items"], "scores": scores}


@pytest.fixture
def other_settings(
    request: pytest.FixtureRequest, tmp_path: Path, make_settings: MakeSettings, postgres: Callable[[], str]
) -> Settings:
    """Settings of another new gallery, on the kind of database that the test names."""
    fields = {"database_url": postgres()} if request.param == "postgresql" else {}
    return make_settings(tmp_path / "other", **fields)


@pytest.mark.parametrize("other_settings", ["sqlite", "postgresql"], indirect=True)
def test_a_gallery_moves_with_all_it_knows_between_databases(
    either_settings: Settings, other_settings: Settings, tmp_path: Path, another_checkpoint: Path
) -> None:
    with serve(either_settings) as client:
        for seed in range(4):
            enroll(client, crop(seed), crop(seed, 1), identity_id=f"p{seed}", camera_id="door", track_id="t")
        client.patch("/identities/p1", json={"name": "Zoë", "attributes": {"hat": "red"}})
        merged = client.post("/identities/p1/merge", json={"source_ids": ["p2"]}).json()["operation_id"]
        item = client.get("/identities/p3/items").json()["items"][0]["id"]
        client.post("/identities/p1/reject", json={"item_ids": [item]})
        activate(client, upload_model(client, another_checkpoint).json()["version"])
        before = seen(client)
        contents = back_up(either_settings, tmp_path / "backup.tar")
        assert seen(client) == before
    assert (contents.num_items, contents.num_crops, contents.num_models) == (8, 8, 2)
    assert restore(other_settings, tmp_path / "backup.tar") == contents
    assert findings(other_settings) == []
    with serve(other_settings) as client:
        assert seen(client) == before
        assert client.post(f"/operations/{merged}/undo").status_code == 200
        assert client.get("/identities/p2").json()["num_items"] == 2
        (new,) = enroll(client, crop(9), identity_id="someone new")
        assert client.get(new["image_url"]).content == crop(9)
    with pytest.raises(NotEmpty, match="items"):
        restore(other_settings, tmp_path / "backup.tar")
    assert findings(other_settings) == []


def test_a_backup_of_a_busy_server_is_whole(either_settings: Settings, tmp_path: Path) -> None:
    with serve(either_settings) as client:
        stay = {item["id"] for item in enroll(client, *[crop(seed) for seed in range(30)], camera_id="a")}
        is_over = threading.Event()

        def work(number: int) -> None:
            with httpx.Client(base_url=client.base_url, timeout=60) as own:
                while not is_over.is_set():
                    items = enroll(own, *[crop(1000 + number * 10 + i) for i in range(4)])
                    for item in items:
                        own.delete(f"/gallery/{item['id']}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            for number in range(6):
                back_up(either_settings, tmp_path / f"{number}.tar")
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
    for number in range(6):
        target = Settings(data_dir=tmp_path / f"restored {number}")
        restore(target, tmp_path / f"{number}.tar")
        with opened(target) as store, store.sessions.read() as session:
            rows = session.execute(text("SELECT id, sha256 FROM items")).all()
            assert stay <= {row[0] for row in rows}
            assert all(store.crops.has(row[1]) for row in rows)
            embedded = session.execute(text("SELECT count(*) FROM embeddings")).scalar_one()
            assert embedded == len(rows)


@pytest.mark.parametrize("other_settings", ["sqlite", "postgresql"], indirect=True)
def test_nobody_gets_the_key_of_one_who_was_merged_away_before_the_backup(
    either_settings: Settings, other_settings: Settings, tmp_path: Path
) -> None:
    with serve(either_settings) as client:
        enroll(client, crop(1), identity_id="anna")
        enroll(client, crop(2), identity_id="last")
        merged = client.post("/identities/anna/merge", json={"source_ids": ["last"]}).json()["operation_id"]
    back_up(either_settings, tmp_path / "backup.tar")
    restore(other_settings, tmp_path / "backup.tar")
    with serve(other_settings) as client:
        enroll(client, crop(3), identity_id="new")
        assert client.post(f"/operations/{merged}/undo").status_code == 200
        owners = [item["identity_id"] for item in client.get("/gallery").json()["items"]]
        assert owners == ["anna", "last", "new"]


class CropsAfter(CropStore):
    """The crops of a gallery, in which something happens before the first crop is read."""

    def __init__(self, root: Path, happens: Callable[[], None]) -> None:
        super().__init__(root)
        self._happens = [happens]

    def get(self, sha256: str) -> bytes:
        while self._happens:
            self._happens.pop()()
        return super().get(sha256)


def test_items_deleted_while_crops_are_read_are_not_in_the_backup(
    either_settings: Settings, tmp_path: Path
) -> None:
    with serve(either_settings) as client:
        items = sorted(enroll(client, *[crop(seed) for seed in range(5)]), key=lambda one: str(one["sha256"]))

        def delete_three() -> None:
            for gone in items[1:4]:
                assert client.delete(f"/gallery/{gone['id']}").status_code == 204

        store = open_gallery(either_settings)
        store.crops = CropsAfter(either_settings.crops_dir, delete_three)
        contents = backup(store, tmp_path / "backup.tar")
        store.sessions.engine.dispose()
    assert (contents.num_items, contents.num_crops, contents.num_missing) == (2, 2, 0)
    target = Settings(data_dir=tmp_path / "target")
    restore(target, tmp_path / "backup.tar")
    with opened(target) as store, store.sessions.read() as session:
        left = {row[0] for row in session.execute(text("SELECT id FROM items"))}
        assert left == {items[0]["id"], items[4]["id"]}
        assert session.execute(text("SELECT count(*) FROM identities")).scalar_one() == 2
    whole = (tmp_path / "backup.tar").read_bytes()
    assert not [gone for gone in items[1:4] if gone["sha256"].encode() in whole]  # the audit has their ids


def test_a_backup_of_nothing_is_refused_and_makes_nothing(tmp_path: Path, database_url: str) -> None:
    with pytest.raises((BadBackup, BadSettings), match="there is no gallery"):
        back_up(Settings(data_dir=tmp_path / "data", database_url=database_url), tmp_path / "backup.tar")
    assert list(tmp_path.iterdir()) == []


def test_what_killed_backups_and_restores_have_left_goes_and_what_is_in_use_stays(
    settings: Settings, tmp_path: Path
) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    with workspace(settings.data_dir, RESTORING) as restoring, workspace(backups, BACKING_UP) as backing_up:
        abandon(settings.data_dir / f"{RESTORING}1")
        abandon(backups / f"{BACKING_UP}1")
        with serve(settings) as client:
            assert list(settings.data_dir.glob(".*")) == [restoring]
            abandon(settings.data_dir / f"{RESTORING}2")
            enroll(client, crop(1), identity_id="anna")
            client.delete("/identities/anna", params={"mode": "erase"}).raise_for_status()
            assert list(settings.data_dir.glob(".*")) == [restoring]
            back_up(settings, backups / "x.reid")
        assert set(backups.iterdir()) == {backups / "x.reid", backing_up}
    assert list(backups.iterdir()) == [backups / "x.reid"]


@pytest.mark.parametrize("other_settings", ["sqlite", "postgresql"], indirect=True)
def test_jobs_that_have_not_ended_stay_behind_and_others_with_their_errors_do_not(
    settings: Settings, other_settings: Settings, tmp_path: Path
) -> None:
    with serve(settings) as client:
        archive = tar_of({"anna/1.jpg": crop(1), "anna/2.jpg": crop(1)[:900]})
        answer = client.post("/gallery", files={"archive": ("a", archive)}, data={"layout": "folders"})
        job = wait_for_job(client, answer.headers["location"])
        assert (job["state"], job["num_failed"]) == ("succeeded", 1)
    with opened(settings) as store, store.sessions.write.begin() as session:
        for state in ("queued", "running"):
            session.add(Job(id=state, kind="import", state=state, done=0, total=1, created_at=now()))
            session.flush()
            session.add(JobFile(job_id=state, position=0, name="x", sha256="0" * 64, label={}))
    back_up(settings, tmp_path / "backup.tar")
    restore(other_settings, tmp_path / "backup.tar")
    with opened(other_settings) as store, store.sessions.read() as session:
        assert session.execute(text("SELECT id, state FROM jobs")).all() == [(job["id"], "succeeded")]
        assert session.execute(text("SELECT name FROM job_files")).all() == [("anna/2.jpg",)]


def test_who_was_erased_after_a_backup_does_not_come_back_with_it(
    either_settings: Settings, tmp_path: Path, make_settings: MakeSettings
) -> None:
    path = tmp_path / "backup.tar"
    with serve(either_settings) as client:
        enroll(client, crop(1), crop(2), identity_id="anna")
        enroll(client, crop(2), crop(3), identity_id="bert")
        enroll(client, crop(4), identity_id="cleo")
        client.patch("/identities/anna", json={"name": "Anna Secret"})
        back_up(either_settings, path)
        client.post("/identities/anna/merge", json={"source_ids": ["cleo"]})
        assert client.delete("/identities/anna", params={"mode": "erase"}).status_code == 200
        told = client.get("/erasures").text
    for number, content in enumerate(
        (told, json.dumps(json.loads(told)["erasures"]), json.dumps(json.loads(told)["erasures"][0]))
    ):
        target = make_settings(tmp_path / str(number))
        contents = restore(target, path, read_receipts(content, "receipts"))
        assert (contents.num_items, contents.num_erased, contents.num_crops) == (2, 3, 2)
        everything = b"".join(one.read_bytes() for one in target.data_dir.rglob("*") if one.is_file())
        assert crop(1)[-300:-100] not in everything
        assert crop(4)[-300:-100] not in everything
        assert b"Anna Secret" not in everything
        assert crop(2)[-300:-100] in everything  # which bert's item shows too
        assert findings(target) == []
        with serve(target) as client:
            assert [item["identity_id"] for item in client.get("/gallery").json()["items"]] == ["bert"] * 2
            assert len(client.get("/erasures").json()["erasures"]) == 1
    for nonsense in ("", "[1]", '{"a": 1}', "null"):
        with pytest.raises(BadBackup):
            read_receipts(nonsense, "receipts")
