"""The crops on the disk: whole or absent, mended by the next enrolment, and gone when nothing needs them."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from live_server import crop, enroll, serve, wait_until
from service.settings import Settings
from service.store.changes import transaction
from service.store.crops import CropStore
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.store.tables import Change, DoomedCrop, Job, JobFile, now
from service.upkeep.orphans import MAX_ORPHANS, MIN_AGE, purge_orphans


@contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    """The gallery beside a server that may run."""
    engine = make_engine(settings.database_url)
    yield Store(settings, make_sessions(engine))
    engine.dispose()


def files_in(settings: Settings) -> set[str]:
    return {path.name for path in settings.crops_dir.rglob("*") if path.is_file()}


def lay(store: CropStore, data: bytes) -> Path:
    """Put bytes where their crop belongs, as quickly as can be."""
    path = store.path(hashlib.sha256(data).hexdigest())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def take_unfinished(store: CropStore, path: Path, putting: "Future[str]") -> bool:
    """Remove a crop in the very moment in which it is written; tell whether that moment came."""
    while not putting.done():
        if path.parent.exists() and any(name.endswith(".tmp") for name in os.listdir(path.parent)):
            store.delete(path.name)
            return True
    return False


def test_erasing_takes_what_a_killed_upload_of_the_same_crop_has_left(
    client: httpx.Client, either_settings: Settings
) -> None:
    (item,) = enroll(client, crop(1), identity_id="anna")
    path = CropStore(either_settings.crops_dir).path(item["sha256"])
    path.with_name(f".{path.name}.01234567.tmp").write_bytes(crop(1))
    assert len(files_in(either_settings)) == 2
    assert client.delete("/identities/anna?mode=erase").json()["erased"]["cleaned"]
    assert files_in(either_settings) == set()


def test_a_crop_that_is_removed_while_it_is_written_is_written_again(tmp_path: Path) -> None:
    store = CropStore(tmp_path)
    num_taken = 0
    with ThreadPoolExecutor(1) as thread:
        for number in range(20):
            data = bytes([number]) * 2_000_000
            sha256 = hashlib.sha256(data).hexdigest()
            putting = thread.submit(store.put, data)
            num_taken += take_unfinished(store, store.path(sha256), putting)
            assert putting.result() == sha256
            assert list(store.path(sha256).parent.glob(".*")) == []
    assert num_taken > 0


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda data: data[:-9], lambda data: data[::-1]])
def test_enrolling_a_crop_again_mends_its_spoilt_file(
    settings: Settings, spoil: Callable[[bytes], bytes]
) -> None:
    with serve(settings) as client:
        (first,) = enroll(client, crop(1))
        path = CropStore(settings.crops_dir).path(first["sha256"])
        path.write_bytes(spoil(crop(1)))
        assert client.get(first["image_url"]).json()["code"] == "crop_missing"
        (second,) = enroll(client, crop(1))
        for item in (first, second):
            assert client.get(item["image_url"]).content == crop(1)


def test_a_server_lets_go_of_crops_that_killed_requests_have_left(either_settings: Settings) -> None:
    with serve(either_settings) as client:
        (item,) = enroll(client, crop(1), identity_id="anna")
    store = CropStore(either_settings.crops_dir)
    orphan, young = lay(store, crop(2)), lay(store, crop(3))
    unfinished = orphan.with_name(f".{orphan.name}.01234567.tmp")
    unfinished.write_bytes(b"half")
    day_ago = now() - timedelta(days=1)
    for path in (store.path(item["sha256"]), orphan, unfinished):
        os.utime(path, (day_ago.timestamp(), day_ago.timestamp()))
    with opened(either_settings) as gallery, transaction(gallery.sessions) as change:
        change.session.execute(update(Change).values(at=day_ago - timedelta(days=1)))
    with serve(either_settings) as client:
        wait_until(lambda: not orphan.exists() and not unfinished.exists())
        assert files_in(either_settings) == {item["sha256"], young.name}
        assert client.get(item["image_url"]).content == crop(1)


def test_only_crops_of_nothing_are_let_go_and_only_those_of_this_gallery(either_settings: Settings) -> None:
    with serve(either_settings) as client:
        enroll(client, crop(1))
    store = CropStore(either_settings.crops_dir)
    older = lay(store, b"of another gallery")
    os.utime(older, (0, 0))
    pending, failed, doomed, orphan = (lay(store, name) for name in (b"pending", b"failed", b"doomed", b"?"))
    with opened(either_settings) as gallery:
        with transaction(gallery.sessions) as change:
            job = Job(id="job", kind="import", state="running", done=0, total=2, created_at=now())
            change.session.add(job)
            change.session.flush()
            for position, (path, error) in enumerate(((pending, None), (failed, "torn"))):
                change.session.add(
                    JobFile(
                        job_id="job", position=position, name="a", sha256=path.name, label={}, error=error
                    )
                )
            change.session.add(DoomedCrop(sha256=doomed.name))
        assert purge_orphans(gallery, now()) == 0
        assert {older.name, pending.name, failed.name, orphan.name} < files_in(either_settings)
        assert purge_orphans(gallery, now() + MIN_AGE) == 2
        assert {failed.name, orphan.name}.isdisjoint(files_in(either_settings))
        assert {older.name, pending.name} < files_in(either_settings)


def test_so_many_crops_of_nothing_that_the_database_may_be_wrong_are_left_alone(settings: Settings) -> None:
    with serve(settings) as client:
        enroll(client, crop(1))
    store = CropStore(settings.crops_dir)
    for number in range(MAX_ORPHANS + 1):
        lay(store, b"%d" % number)
    num_files = len(files_in(settings))
    with opened(settings) as gallery:
        assert purge_orphans(gallery, now() + 2 * MIN_AGE) == 0
    assert len(files_in(settings)) == num_files
