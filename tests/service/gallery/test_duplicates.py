"""The same bytes of one camera, and crops that are nearly the same."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from live_server import crop, enroll, images, search, serve
from service.settings import Settings


def post(client: httpx.Client, *contents: bytes, **fields: Any) -> httpx.Response:
    return client.post("/gallery", files=images(*contents), data=fields)


def test_the_same_bytes_of_one_camera_are_the_same_item(client: httpx.Client) -> None:
    first = post(client, crop(1), identity_id="anna", camera_id="door")
    again = post(client, crop(1), identity_id="bert", camera_id="door", track_id="t")
    assert (first.status_code, again.status_code) == (201, 200)
    (old,), (same,) = first.json()["items"], again.json()["items"]
    assert (old.pop("is_new"), same.pop("is_new")) == (True, False)
    assert old == same
    mixed = post(client, crop(2), crop(1), crop(2), camera_id="door")
    assert mixed.status_code == 201
    assert [item["is_new"] for item in mixed.json()["items"]] == [True, False, False]
    assert [item["id"] for item in mixed.json()["items"]][0::2] == [mixed.json()["items"][0]["id"]] * 2
    assert search(client, crop(1))["num_searched"] == 2
    assert client.get("/identities/bert").status_code == 404


def test_another_camera_is_no_duplicate_and_without_a_camera_the_identity_counts(
    client: httpx.Client,
) -> None:
    for fields in ({"camera_id": "a"}, {"camera_id": "b"}, {}, {}):
        assert post(client, crop(1), **fields).status_code == 201
    assert search(client, crop(1))["num_searched"] == 4


def test_crops_without_a_camera_are_compared_when_it_is_asked_for(client: httpx.Client) -> None:
    for fields in ({}, {"identity_id": "anna"}, {"camera_id": "a"}):
        assert post(client, crop(1), on_duplicate="skip", **fields).status_code == 201
        assert post(client, crop(1), on_duplicate="skip", **fields).status_code == 200
    assert search(client, crop(1))["num_searched"] == 3


def test_duplicates_are_stored_or_rejected_when_asked_for(
    client: httpx.Client, either_settings: Settings
) -> None:
    (first,) = enroll(client, crop(1), camera_id="door")
    (second,) = enroll(client, crop(1), camera_id="door", on_duplicate="store")
    assert first["id"] != second["id"]
    for contents, position in (((crop(1),), 0), ((crop(5), crop(1)), 1), ((crop(6), crop(6)), 1)):
        answer = post(client, *contents, camera_id="door", on_duplicate="reject")
        assert (answer.status_code, answer.json()["code"]) == (409, "duplicate_crop")
        assert answer.json()["position"] == position
    assert post(client, crop(1), camera_id="door", on_duplicate="reject").json()["item_id"] == first["id"]
    assert search(client, crop(1))["num_searched"] == 2
    assert len([path for path in either_settings.crops_dir.rglob("*") if path.is_file()]) == 1
    assert post(client, crop(1), on_duplicate="twice").status_code == 422


def test_the_same_crop_from_many_at_once_becomes_one_item(client: httpx.Client) -> None:
    def send(_: int) -> tuple[int, str]:
        answer = post(client, crop(1), camera_id="door")
        return answer.status_code, answer.json()["items"][0]["id"]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(send, range(16)))
    assert sorted(status for status, _ in answers) == [200] * 15 + [201]
    assert len({item_id for _, item_id in answers}) == 1


@pytest.mark.parametrize("near", [0.99, None])
def test_a_nearly_equal_crop_of_one_camera_is_stored_and_marked(
    tmp_path: Path, make_settings: Callable[..., Settings], near: float | None
) -> None:
    with serve(make_settings(tmp_path / "data", near_duplicate=near)) as client:
        (first,) = enroll(client, crop(1), camera_id="door")
        (other,) = enroll(client, crop(2), camera_id="door")
        second, third = enroll(client, crop(1, 1), crop(3), camera_id="door")
        (elsewhere,) = enroll(client, crop(1, 2), camera_id="hall")
        (nowhere,) = enroll(client, crop(1, 3))
        metadata = [{"camera_id": "yard"}, {"camera_id": "yard"}, {"camera_id": "roof"}]
        a, b, c = enroll(client, crop(4), crop(4, 1), crop(4, 2), metadata=json.dumps(metadata))
        marked = {second["id"]: first["id"], b["id"]: a["id"]} if near else {}
        for item in (first, other, second, third, elsewhere, nowhere, a, b, c):
            assert item["duplicate_of"] == marked.get(item["id"])
            assert client.get(f"/gallery/{item['id']}").json()["duplicate_of"] == marked.get(item["id"])
        client.delete(f"/gallery/{first['id']}")
        assert client.get(f"/gallery/{second['id']}").json()["duplicate_of"] is None
