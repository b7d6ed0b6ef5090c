"""Enrolling, looking at and deleting items, over HTTP."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

from live_server import crop, encode, enroll, images, person, search
from service.settings import Settings
from service.store.database import make_engine


def count(settings: Settings, table: str) -> int:
    engine = make_engine(settings.database_url)
    with engine.connect() as connection:
        rows = connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()  # noqa: S608
    engine.dispose()
    return int(rows)


def stored_crops(settings: Settings) -> list[Path]:
    return [path for path in settings.crops_dir.rglob("*") if path.is_file()]


def test_an_item_comes_back_as_it_was_enrolled(client: httpx.Client) -> None:
    content = crop(1)
    answer = client.post(
        "/gallery",
        files=images(content),
        data={
            "identity_id": "Zoë 7",
            "camera_id": "door",
            "captured_at": "2026-03-01T10:00:00.25+02:00",
            "track_id": "t1",
        },
    )
    assert answer.status_code == 201
    body = answer.json()
    (item,) = body["items"]
    assert set(item) >= {
        *("id", "identity_id", "camera_id", "captured_at", "track_id", "created_at", "sha256"),
        *("width", "height", "model_version", "image_url"),
    }
    assert (item["identity_id"], item["camera_id"], item["track_id"]) == ("Zoë 7", "door", "t1")
    assert datetime.fromisoformat(item["captured_at"]) == datetime(2026, 3, 1, 8, 0, 0, 250_000, UTC)
    assert (item["width"], item["height"]) == (64, 128)
    assert item["sha256"] == hashlib.sha256(content).hexdigest()
    assert item["model_version"] == body["model_version"]
    assert body["request_id"] == answer.headers["x-request-id"]
    found = client.get(f"/gallery/{item['id']}").json()
    assert item.pop("is_new")
    assert {key: found[key] for key in item} == item


def test_items_keep_the_order_of_their_images_and_get_identities_of_their_own(client: httpx.Client) -> None:
    contents = [crop(seed) for seed in range(20)]
    items = enroll(client, *contents)
    assert [item["sha256"] for item in items] == [hashlib.sha256(c).hexdigest() for c in contents]
    assert len({item["identity_id"] for item in items}) == 20
    assert len({item["id"] for item in items}) == 20


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_the_image_comes_back_as_posted_with_its_type(shared_client: httpx.Client, kind: str) -> None:
    content = encode(person(3), kind)
    (item,) = enroll(shared_client, content)
    answer = shared_client.get(item["image_url"])
    assert answer.content == content
    assert answer.headers["content-type"] == f"image/{kind.lower()}"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["etag"] == f'"{item["sha256"]}"'
    assert "private" in answer.headers["cache-control"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_thumbnail_is_a_small_jpeg_of_the_upright_crop(shared_client: httpx.Client, kind: str) -> None:
    (item,) = enroll(shared_client, encode(person(4).resize((100, 300)), kind))
    url = f"/gallery/{item['id']}/thumbnail"
    for size, expected in ((30, (10, 30)), (299, (100, 299)), (1024, (100, 300))):
        answer = shared_client.get(url, params={"size": size})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        with Image.open(BytesIO(answer.content)) as image:
            assert (image.format, image.size) == ("JPEG", expected)
    small = np.asarray(Image.open(BytesIO(shared_client.get(url).content)).resize((8, 16)), np.int16)
    assert np.abs(small - np.asarray(person(4).resize((8, 16)), np.int16)).mean() < 12
    for wrong in ("0", "15", "1025", "x"):
        assert shared_client.get(url, params={"size": wrong}).status_code == 422
    assert shared_client.get("/gallery/nothing/thumbnail").status_code == 404


def test_a_picture_is_not_sent_again_to_who_has_it_but_is_asked_for(shared_client: httpx.Client) -> None:
    for ending in ("image", "thumbnail"):
        (item,) = enroll(shared_client, crop(5))
        url = f"/gallery/{item['id']}/{ending}"
        first = shared_client.get(url)
        assert "no-cache" in first.headers["cache-control"]
        for known in (first.headers["etag"], f'"x", W/{first.headers["etag"]}', "*"):
            again = shared_client.get(url, headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
        assert shared_client.get(url, headers={"If-None-Match": '"x"'}).content == first.content
        assert shared_client.delete(f"/gallery/{item['id']}").status_code == 204
        assert shared_client.get(url, headers={"If-None-Match": first.headers["etag"]}).status_code == 404


def test_metadata_label_each_image(client: httpx.Client) -> None:
    metadata = [
        {"identity_id": "anna", "camera_id": "1", "captured_at": "2026-01-01T00:00:00Z"},
        {"identity_id": "anna", "camera_id": None},
        {"identity_id": "", "track_id": "x"},
    ]
    items = enroll(client, crop(1), crop(2), crop(3), metadata=json.dumps(metadata))
    assert [item["camera_id"] for item in items] == ["1", None, None]
    assert [item["track_id"] for item in items] == [None, None, "x"]
    assert items[0]["identity_id"] == items[1]["identity_id"] == "anna" != items[2]["identity_id"]


def test_a_deleted_item_is_gone_from_everywhere(client: httpx.Client, either_settings: Settings) -> None:
    kept, gone = enroll(client, crop(1), crop(2))
    assert client.delete(f"/gallery/{gone['id']}").status_code == 204
    assert client.get(f"/gallery/{gone['id']}").status_code == 404
    assert client.get(gone["image_url"]).status_code == 404
    assert client.delete(f"/gallery/{gone['id']}").status_code == 404
    answer = search(client, crop(2))
    assert [match["items"][0]["id"] for match in answer["matches"]] == [kept["id"]]
    assert answer["num_searched"] == 1
    assert [path.name for path in stored_crops(either_settings)] == [kept["sha256"]]
    assert [count(either_settings, table) for table in ("items", "embeddings", "identities")] == [1, 1, 1]


def test_deleting_one_of_two_items_of_one_crop_keeps_the_crop(
    client: httpx.Client, either_settings: Settings
) -> None:
    first, second = enroll(client, crop(1), crop(1), identity_id="anna")
    assert first["id"] != second["id"]
    assert len(stored_crops(either_settings)) == 1
    client.delete(f"/gallery/{first['id']}")
    assert client.get(second["image_url"]).content == crop(1)
    client.delete(f"/gallery/{second['id']}")
    assert stored_crops(either_settings) == []


def test_one_bad_image_among_many_stores_nothing(client: httpx.Client, either_settings: Settings) -> None:
    contents = [crop(seed) for seed in range(40)]
    contents[33] = b"not an image"
    answer = client.post("/gallery", files=images(*contents))
    assert answer.status_code == 415
    problem = answer.json()
    assert (problem["code"], problem["position"]) == ("unreadable_image", 33)
    assert "images[33]" in problem["detail"]
    assert count(either_settings, "items") == 0
    assert stored_crops(either_settings) == []
    assert search(client, crop(1))["matches"] == []


def test_the_same_crop_enrolled_and_deleted_by_many_at_once_is_never_half_there(
    client: httpx.Client, either_settings: Settings
) -> None:
    def enroll_and_delete(number: int) -> None:
        (item,) = enroll(client, crop(1), identity_id=f"p{number % 3}")
        assert client.get(item["image_url"]).content == crop(1)
        if number % 2:
            assert client.delete(f"/gallery/{item['id']}").status_code == 204

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(enroll_and_delete, range(24)))
    assert count(either_settings, "items") == count(either_settings, "embeddings") == 12
    assert len(stored_crops(either_settings)) == 1
    assert search(client, crop(1), group_by="item", top_k=100)["num_searched"] == 12


def test_searches_while_items_come_and_go_never_show_a_deleted_item(client: httpx.Client) -> None:
    deleted: set[str] = set()

    def change(seed: int) -> None:
        (item,) = enroll(client, crop(seed))
        assert client.delete(f"/gallery/{item['id']}").status_code == 204
        deleted.add(item["id"])

    def look(_: int) -> None:
        gone_before = set(deleted)
        answer = search(client, crop(0), top_k=100)
        shown = {item["id"] for match in answer["matches"] for item in match["items"]}
        assert not shown & gone_before

    enroll(client, crop(100), crop(101))
    with ThreadPoolExecutor(4) as threads:
        futures: list[Any] = [threads.submit(task, i) for i in range(20) for task in (change, look)]
        for future in futures:
            future.result()
    assert search(client, crop(0))["num_searched"] == 2
