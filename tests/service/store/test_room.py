"""A gallery without room: nothing is added, everything else goes on, and the room is counted rightly."""

import hashlib
import io
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import update

from archives import tar_of
from live_server import (
    crop,
    encode,
    enroll,
    images,
    search,
    serve,
    upload_model,
    wait_for_job,
    wait_until,
)
from service.errors import StorageFull
from service.gallery.imports import accept_images
from service.gallery.metadata import ItemMetadata
from service.serving.serving import Serving
from service.settings import Settings
from service.store.crops import CropStore
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.store.tables import Job

NO_DISK_HAS = 10**18


@contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    """The gallery as another process has it."""
    engine = make_engine(settings.database_url)
    yield Store(settings, make_sessions(engine))
    engine.dispose()


def changed(settings: Settings, **fields: int) -> Settings:
    return settings.model_copy(update=fields)


def queue_import(settings: Settings, *contents: bytes) -> str:
    """Queue an import beside a server, and return the URL of its job."""
    named = [(f"{place}.jpg", io.BytesIO(content)) for place, content in enumerate(contents)]
    with opened(settings) as store:
        metadata = [ItemMetadata()] * len(named)
        return f"/jobs/{accept_images(Serving(store), named, metadata, 'store', lambda *_: None).id}"


def bytes_of(settings: Settings) -> int:
    """The bytes of a gallery on SQLite, as they lie on the disk."""
    data_dir = settings.data_dir
    files = [*settings.crops_dir.rglob("*"), *settings.models_dir.iterdir(), data_dir / "gallery.sqlite3"]
    files += [data_dir / "gallery.sqlite3-wal"]
    return sum(path.stat().st_size for path in files if path.is_file())


def size_of(client: httpx.Client) -> int:
    """The bytes of a gallery, as the service tells them."""
    return int(client.get("/readyz").json()["storage"]["gallery_bytes"])


def assert_full(answer: httpx.Response, setting: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full"), answer.text
    assert setting in answer.json()["detail"]


def test_without_room_nothing_is_added_and_everything_else_goes_on(
    settings: Settings, another_checkpoint: Path
) -> None:
    with serve(settings) as client:
        first, _ = enroll(client, crop(1), crop(2), identity_id="anna", camera_id="door")
        enroll(client, crop(3), identity_id="bert")
        version = upload_model(client, another_checkpoint).json()["version"]
    waiting = queue_import(settings, crop(10), crop(11))
    with serve(changed(settings, min_free_bytes=NO_DISK_HAS)) as client:
        archive = {"archive": ("crops.tar", tar_of({"a.jpg": crop(4)}))}
        for answer in (
            client.post("/gallery", files=images(crop(4))),
            client.post("/gallery", files=images(crop(4)), headers={"Idempotency-Key": "once"}),
            client.post("/gallery", files=images(crop(4)), headers={"Prefer": "respond-async"}),
            client.post("/gallery", files=archive),
            upload_model(client, another_checkpoint),
            client.post(f"/models/{version}/activate"),
        ):
            assert_full(answer, "REID_MIN_FREE_BYTES")
        assert search(client, crop(3))["matches"][0]["identity_id"] == "bert"
        assert client.patch("/identities/bert", json={"name": "Bert"}).is_success
        assert client.delete(f"/gallery/{first['id']}").status_code == 204
        assert client.delete("/identities/anna?mode=erase").json()["erased"]["cleaned"]
        storage = client.get("/readyz").json()["storage"]
        assert storage["is_full"]
        assert storage["free_bytes"] < storage["min_free_bytes"] == NO_DISK_HAS
        wait_until(lambda: client.get(waiting).json()["started_at"])
    with opened(settings) as store, store.write() as session:
        session.execute(update(Job).values(alive_at=None))  # as after a long time: no lease is waited for
    with serve(settings) as client:
        assert not client.get("/readyz").json()["storage"]["is_full"]
        assert wait_for_job(client, waiting)["state"] == "succeeded"
        found = {match["identity_id"] for match in search(client, crop(10), crop(11))["matches"]}
        assert len(found) == 3  # bert, and one of each crop of the import


def test_a_body_that_has_no_room_is_refused_unread(settings: Settings) -> None:
    with (
        serve(changed(settings, min_free_bytes=NO_DISK_HAS)) as client,
        socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=30) as connection,
    ):
        form = "Content-Type: multipart/form-data; boundary=a\r\nContent-Length: 1000000"
        connection.sendall(f"POST /gallery HTTP/1.1\r\nHost: localhost\r\n{form}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 507 ")


def test_a_body_needs_room_for_its_temporary_files_too(settings: Settings) -> None:
    with opened(settings) as store:
        free = store.room.usage().free_bytes
        store.room.require_for_body(settings.crops_dir, 1_000, 2)
        for num_bytes, num_copies in ((free, 0), (free // 3, 3)):
            with pytest.raises(StorageFull):
                store.room.require_for_body(settings.crops_dir, num_bytes, num_copies)


def test_the_gallery_takes_no_more_bytes_than_it_may_have(settings: Settings) -> None:
    noise_HWC = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    large = encode(Image.fromarray(noise_HWC), "PNG")
    with serve(changed(settings, max_gallery_bytes=NO_DISK_HAS)) as client:
        wait_until(lambda: size_of(client) == bytes_of(settings))
        (item,) = enroll(client, large, identity_id="anna")
        enroll(client, crop(1))
        wait_until(lambda: size_of(client) == bytes_of(settings) > len(large))
        assert client.delete(f"/gallery/{item['id']}").status_code == 204
        wait_until(lambda: size_of(client) == bytes_of(settings))
    with serve(changed(settings, max_gallery_bytes=bytes_of(settings) + len(large))) as client:
        archive = {"archive": ("crops.tar", tar_of({"a.png": large, "b.jpg": crop(2)}))}
        (item,) = enroll(client, crop(5), identity_id="anna")
        for answer in (client.post("/gallery", files=images(large)), client.post("/gallery", files=archive)):
            assert_full(answer, "REID_MAX_GALLERY_BYTES")
        assert not CropStore(settings.crops_dir).has(hashlib.sha256(large).hexdigest())
        assert client.delete(f"/gallery/{item['id']}").status_code == 204
        enroll(client, crop(3))


def test_what_other_processes_add_counts_from_the_next_measurement_on(either_settings: Settings) -> None:
    bounded = changed(either_settings, max_gallery_bytes=NO_DISK_HAS)
    bounded.models_dir.mkdir()
    with opened(bounded) as one, opened(bounded) as other:
        one.room.look()
        before = one.room.usage().gallery_bytes
        other.crops.put(os.urandom(100_000))
        one.crops.put(os.urandom(1_000))
        assert before is not None
        assert one.room.usage().gallery_bytes == before + 1_000

        def sees_both() -> bool:
            one.room.look()
            return one.room.usage().gallery_bytes == before + 101_000

        wait_until(sees_both)
