"""Q: a disk is not filled by requests, and items can be deleted on a disk that others have filled."""

import shutil
from itertools import chain, repeat
from pathlib import Path

import httpx
import pytest

from live_server import crop, enroll, images, search
from service.settings import Settings
from service.store.reserve import MIN_BYTES, Reserve
from small_disk import MAY_MOUNT, run_on_disk, serve_on_small_disk


def assert_a_body_leaves_room(client: httpx.Client) -> None:
    """Send an archive of unknown length, which would fill the disk, where temporary files are kept too."""
    head = b'--edge\r\nContent-Disposition: form-data; name="archive"; filename="x.tar"\r\n\r\n'
    body = chain([head], repeat(bytes(100_000), 300))
    form = {"content-type": "multipart/form-data; boundary=edge"}
    refused = client.post("/gallery", content=body, headers=form)
    assert (refused.status_code, refused.json()["code"]) == (507, "storage_full"), refused.text
    assert "REID_MIN_FREE_BYTES" in refused.json()["detail"]
    storage = client.get("/readyz").json()["storage"]
    assert storage["min_free_bytes"] == 24 * 2**20 // 20


@pytest.mark.skipif(not MAY_MOUNT, reason="this user may not mount a small disk")
def test_q_items_and_identities_are_deleted_on_a_full_disk(settings: Settings, tmp_path: Path) -> None:
    with serve_on_small_disk(tmp_path, settings, 24, TMPDIR=f"{tmp_path}/disk") as client:
        for seed in range(6):
            enroll(client, crop(seed), identity_id=f"p{seed}")
        assert_a_body_leaves_room(client)
        run_on_disk(tmp_path, f"while ! [ -e {tmp_path}/disk/gallery.sqlite3-reserve ]; do sleep 0.1; done")
        run_on_disk(tmp_path, f"dd if=/dev/zero of={tmp_path}/disk/filler bs=1K 2>/dev/null")
        full = client.post("/gallery", files=images(*(crop(seed) for seed in range(100, 164))))
        assert full.status_code == httpx.codes.INSUFFICIENT_STORAGE, full.text
        assert client.get("/readyz").json()["storage"]["is_full"]
        item = search(client, crop(0))["matches"][0]["items"][0]
        assert client.delete(f"/gallery/{item['id']}").status_code == 204
        assert client.delete("/identities/p1").status_code == 204
        order = {"filter": {"identity_id": ["p2"]}, "expected_count": 1, "dry_run": False}
        assert client.post("/gallery/delete", json=order).status_code == 200
        assert client.get("/gallery").json()["items"][0]["identity_id"] == "p3"
        run_on_disk(tmp_path, f"rm {tmp_path}/disk/filler")
        enroll(client, crop(7))


def test_q_the_reserve_takes_a_small_part_of_the_room_and_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite3-reserve"
    reserve = Reserve(tmp_path / "gallery.sqlite3")
    reserve.keep()
    reserve.keep()
    assert MIN_BYTES <= path.stat().st_size <= shutil.disk_usage(tmp_path).free // 4
    reserve.release_if_full()
    assert path.exists()
    Reserve(None).keep()
    Reserve(None).release_if_full()
