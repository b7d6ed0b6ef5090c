"""H8: a data folder belongs to one gallery; another gallery is refused before it deletes a crop."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Barrier, Thread

import pytest
from sqlalchemy import select, update

from live_server import crop, enroll, images, search, serve, wait_until
from service.errors import OtherGallery, StorageUnavailable
from service.settings import Settings
from service.store.database import make_engine, make_sessions, migrate
from service.store.folder import MARK, DataFolder
from service.store.store import Store
from service.store.tables import Gallery, Identity, Item, new_id, now
from service.upkeep.backup import backup, open_gallery
from service.upkeep.claim import claim_folder, refuse_lost_database
from service.upkeep.orphans import purge_orphans
from service.upkeep.restore import restore


@contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    """Open a gallery as a start does, without a network."""
    engine = make_engine(settings.database_url)
    try:
        refuse_lost_database(settings)
        migrate(engine)
        store = Store(settings, make_sessions(engine))
        claim_folder(store)
        yield store
    finally:
        engine.dispose()


def settings_of(folder: Path, database: str | None = None) -> Settings:
    url = {} if database is None else {"database_url": database}
    return Settings.model_validate({"data_dir": folder / "data", **url})


def add_item(store: Store, data: bytes = b"a crop") -> str:
    """Add an item with its crop, and return the hash of the crop."""
    sha256 = store.crops.put(data)
    with store.change() as change:
        identity = Identity(id=new_id(), created_at=now())
        change.session.add(identity)
        change.session.flush()
        change.session.add(
            Item(
                slot=change.note("added"),
                id=new_id(),
                identity_key=identity.key,
                created_at=now(),
                sha256=sha256,
                content_type="image/jpeg",
                width=1,
                height=1,
                has_crop=True,
            )
        )
    return sha256


def run_all(threads: list[Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def make_old(settings: Settings) -> None:
    """Make a data folder as a version without marks has left it."""
    (settings.data_dir / MARK).unlink()


def test_h8_a_second_database_is_refused_and_deletes_nothing(tmp_path: Path, database_url: str) -> None:
    with opened(settings_of(tmp_path)) as first:
        sha256 = add_item(first)
        os.utime(first.crops.path(sha256), (0, 0))
        with pytest.raises(OtherGallery, match="REID_DATA_DIR"), opened(settings_of(tmp_path, database_url)):
            pass
        assert first.crops.has(sha256)


def test_h8_a_gallery_of_today_gets_its_mark_and_another_does_not(tmp_path: Path, database_url: str) -> None:
    settings = settings_of(tmp_path)
    with opened(settings) as first:
        add_item(first)
    make_old(settings)
    other = settings_of(tmp_path, database_url)
    with pytest.raises(OtherGallery, match="holds the crops of a gallery"), opened(other):
        pass
    with opened(settings) as first, first.read() as session:
        assert first.folder.owner() == session.scalars(select(Gallery.id)).one()


def test_h8_an_old_folder_of_two_galleries_goes_to_one_of_them(tmp_path: Path, database_url: str) -> None:
    settings, other = settings_of(tmp_path), settings_of(tmp_path, database_url)
    with opened(other) as second:
        add_item(second, b"another crop")
    make_old(settings)
    with opened(settings_of(tmp_path / "elsewhere")) as apart:
        add_item(apart, b"a crop of a third gallery")
    with opened(other), pytest.raises(OtherGallery), opened(settings):
        pass


def test_h8_the_sweep_of_a_running_server_stops_when_another_gallery_takes_the_folder(tmp_path: Path) -> None:
    with opened(settings_of(tmp_path)) as store:
        add_item(store)
        foreign = store.crops.put(b"a crop of the other gallery")
        unfinished = store.crops.path(foreign).with_name(f".{foreign}.00000000.tmp")
        unfinished.touch()
        later = now() + timedelta(hours=2)
        for path in (store.crops.path(foreign), unfinished):
            os.utime(path, (time.time() + 60, time.time() + 60))
        store.folder.give_to("another")
        with pytest.raises(OtherGallery):
            purge_orphans(store, later)
        with pytest.raises(OtherGallery):
            add_item(store, b"one more")
        assert unfinished.exists()
        (tmp_path / "data" / MARK).unlink()
        with pytest.raises(StorageUnavailable, match="mount"):
            purge_orphans(store, later)
        assert store.crops.has(foreign)


def test_h8_of_two_databases_that_begin_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    stores = []
    for name in ("a", "b"):
        settings = settings_of(tmp_path, f"sqlite:///{tmp_path}/{name}/gallery.sqlite3")
        refuse_lost_database(settings)
        engine = make_engine(settings.database_url)
        migrate(engine)
        stores.append(Store(settings, make_sessions(engine)))
    refused: list[Store] = []
    both = Barrier(2)

    def start(store: Store) -> None:
        both.wait()
        try:
            claim_folder(store)
        except OtherGallery:
            refused.append(store)

    run_all([Thread(target=start, args=(store,)) for store in stores])
    assert len(refused) == 1
    (served,) = set(stores) - set(refused)
    add_item(served)
    for store in stores:
        store.sessions.engine.dispose()


def test_h8_of_many_claims_at_once_one_wins(tmp_path: Path) -> None:
    refused: list[str] = []
    ready = Barrier(8)

    def claim(gallery_id: str) -> None:
        ready.wait()
        try:
            DataFolder(tmp_path).claim(gallery_id)
        except OtherGallery:
            refused.append(gallery_id)

    run_all([Thread(target=claim, args=(f"gallery{number}",)) for number in range(8)])
    assert len(refused) == 7
    assert [path.name for path in tmp_path.iterdir()] == [MARK]
    assert DataFolder(tmp_path).owner() not in refused


def test_h8_an_empty_or_absent_database_beside_crops_is_refused_and_not_made(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    with opened(settings) as store:
        add_item(store)
    for mark in (settings.data_dir / MARK, None):  # also of a version without marks
        path = settings.data_dir / "gallery.sqlite3"
        away = path.rename(tmp_path / "away")
        with pytest.raises(OtherGallery, match=r"does not exist.*reid restore.*delete"), opened(settings):
            pass
        assert not path.exists()
        path.touch()
        with pytest.raises(OtherGallery, match="is empty"), opened(settings):
            pass
        assert path.stat().st_size == 0
        away.rename(path)
        if mark is not None:
            mark.unlink()
    with opened(settings):
        pass


def test_h8_a_database_without_a_gallery_beside_crops_is_refused(tmp_path: Path, database_url: str) -> None:
    settings = settings_of(tmp_path, database_url)
    engine = make_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE something (a INTEGER)")
    Store(settings, make_sessions(engine)).crops.put(b"a crop")
    engine.dispose()
    with pytest.raises(OtherGallery, match="knows no crop"), opened(settings):
        pass


def test_h8_a_new_gallery_begins_when_crops_and_mark_are_deleted(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    with opened(settings) as store:
        sha256 = add_item(store)
    for path in (settings.data_dir / "gallery.sqlite3", settings.data_dir / MARK):
        path.unlink()
    store.crops.path(sha256).unlink()
    with opened(settings) as store, store.read() as session:
        assert session.scalars(select(Item)).all() == []


def test_h8_a_backup_is_restored_where_the_database_was_lost(tmp_path: Path, database_url: str) -> None:
    settings = settings_of(tmp_path, database_url)
    with opened(settings) as store:
        sha256 = add_item(store)
        backup(store, tmp_path / "backup")
    again = settings_of(tmp_path)  # the same folder, and a new database
    for _ in range(2):
        (tmp_path / "data" / "gallery.sqlite3").unlink(missing_ok=True)
        restore(again, tmp_path / "backup")
        with opened(again) as store:
            assert store.crops.has(sha256)
    with pytest.raises(OtherGallery), opened(settings):
        pass
    with pytest.raises(OtherGallery):
        open_gallery(settings)


def test_h8_processes_of_one_gallery_share_the_folder(either_settings: Settings) -> None:
    with serve(either_settings) as one, serve(either_settings) as other:
        enroll(one, crop(1), identity_id="anna")
        enroll(other, crop(2), identity_id="bert")
        assert search(one, crop(2))["matches"][0]["identity_id"] == "bert"
        (either_settings.data_dir / MARK).write_text("another")
        answer = one.post("/gallery", files=images(crop(3)))
        assert (answer.status_code, answer.json()["code"]) == (503, "other_gallery")
        assert search(other, crop(2))["matches"][0]["identity_id"] == "bert"


def test_h8_a_start_says_in_one_sentence_why_it_is_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    with opened(settings) as store:
        add_item(store)
        with store.write() as session:
            session.execute(update(Gallery).values(id="f" * 32))
    with serve(settings, wait=False) as client:
        wait_until(lambda: "being loaded" not in client.get("/readyz").text)
        detail = client.get("/readyz").json()["detail"]
    assert "belongs to gallery" in detail
    assert "REID_DATA_DIR" in detail
    assert "\n" not in detail
