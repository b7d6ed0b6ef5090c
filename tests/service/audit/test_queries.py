"""The crops of queries: kept if the gallery keeps queries, and gone with their row and with the person."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from audited import rows_of, verified
from keyed import as_key, make_key, store_of
from live_server import crop, enroll, search, serve, wait_until
from service.audit.entries import Entry, Person
from service.audit.log import Audit
from service.settings import Settings
from service.store.crops import CropStore
from service.upkeep.backup import backup
from service.upkeep.restore import restore


class Keeping(NamedTuple):
    """A service that keeps queries, an admin, its settings and the crops on its disk."""

    client: httpx.Client
    admin: httpx.Client
    settings: Settings
    crops: CropStore


@pytest.fixture
def keeping(either_settings: Settings) -> Iterator[Keeping]:
    chosen = either_settings.model_copy(update={"audit_keep_queries": True})
    with serve(chosen) as client, as_key(client, make_key(chosen, "admin", "anna")) as admin:
        yield Keeping(client, admin, chosen, CropStore(chosen.crops_dir))


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_query_is_kept_for_an_admin_alone(keeping: Keeping) -> None:
    one, other = crop(1, 1), crop(2, 1)
    search(keeping.admin, one)
    files = [("images", ("a.jpg", one)), ("other_images", ("b.jpg", other))]
    assert keeping.admin.post("/verify", files=files).status_code == 200
    wait_until(lambda: len(rows_of(keeping.admin)) == 2)
    for data in (one, other):
        answer = keeping.admin.get(f"/audit/queries/{hash_of(data)}")
        assert (answer.status_code, answer.content) == (200, data)
        assert answer.headers["content-type"] == "image/jpeg"
    with as_key(keeping.client, make_key(keeping.settings, "operator")) as operator:
        assert operator.get(f"/audit/queries/{hash_of(one)}").status_code == 403
    answer = keeping.admin.get(f"/audit/queries/{'0' * 64}")
    assert (answer.status_code, answer.json()["code"]) == (404, "query_not_kept")


def test_no_query_is_kept_unless_asked(audited_gallery: httpx.Client, settings: Settings) -> None:
    search(audited_gallery, crop(1))
    wait_until(lambda: rows_of(audited_gallery))
    assert not CropStore(settings.crops_dir).has(hash_of(crop(1)))
    assert audited_gallery.get(f"/audit/queries/{hash_of(crop(1))}").status_code == 404


@pytest.fixture
def audited_gallery(settings: Settings) -> Iterator[httpx.Client]:
    with serve(settings) as client:
        yield client


def test_an_erasure_erases_the_queries_that_found_the_person(keeping: Keeping) -> None:
    admin, (found, alone) = keeping.admin, (crop(1, 1), crop(2, 2))
    enroll(admin, crop(1), identity_id="gone")
    enroll(admin, crop(2), identity_id="kept")
    search(admin, found)
    search(admin, alone, identity_id="kept")
    wait_until(lambda: len(rows_of(admin, action="search")) == 2)
    receipt = admin.delete("/identities/gone", params={"mode": "erase"}).json()
    assert receipt["erased"]["audit_queries"] == 1
    assert not keeping.crops.has(hash_of(found))
    assert admin.get(f"/audit/queries/{hash_of(found)}").status_code == 404
    assert admin.get(f"/audit/queries/{hash_of(alone)}").content == alone
    assert verified(keeping.settings).faults == []


def test_a_late_batch_keeps_no_query_that_found_an_erased_person(keeping: Keeping) -> None:
    enroll(keeping.admin, crop(1), identity_id="gone")
    kept = keeping.crops.put(crop(1, 3))
    with store_of(keeping.settings) as store:
        audit = Audit(store)  # as of another process
        people = [Person("returned", "gone")]
        audit.queue(Entry(store.clock.now(), "search", "late", "reader", people=people, kept_queries=[kept]))
        keeping.admin.delete("/identities/gone", params={"mode": "erase"})
        audit.flush()
        store.purge_doomed()
    assert not keeping.crops.has(kept)
    assert keeping.admin.get(f"/audit/queries/{kept}").status_code == 404


def test_a_query_is_a_crop_of_the_gallery_until_its_row_expires(keeping: Keeping) -> None:
    (item,) = enroll(keeping.admin, crop(1), identity_id="anna")
    search(keeping.admin, crop(1))
    search(keeping.admin, crop(2))
    wait_until(lambda: len(rows_of(keeping.admin, action="search")) == 2)
    keeping.admin.delete(f"/gallery/{item['id']}")  # the item goes, and its bytes are a query too
    one, two = hash_of(crop(1)), hash_of(crop(2))
    assert keeping.admin.get(f"/audit/queries/{one}").content == crop(1)
    with store_of(keeping.settings) as store:
        store.settings = keeping.settings.model_copy(update={"audit_days": 1e-9})
        Audit(store).expire()
    assert not keeping.crops.has(one)
    assert not keeping.crops.has(two)
    assert verified(keeping.settings).faults == []


def test_a_backup_has_the_queries(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    chosen = make_settings(tmp_path / "data", audit_keep_queries=True)
    with serve(chosen) as client:
        search(client, crop(1))
        wait_until(lambda: rows_of(client))
    with store_of(chosen) as store:
        backup(store, tmp_path / "backup.tar")
    restored = make_settings(tmp_path / "restored")
    restore(restored, tmp_path / "backup.tar")
    with serve(restored) as client:
        assert client.get(f"/audit/queries/{hash_of(crop(1))}").content == crop(1)
