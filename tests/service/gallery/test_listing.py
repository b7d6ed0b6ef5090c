"""Listing items page by page and deleting many at once, over HTTP."""

import json
from base64 import b64decode, urlsafe_b64decode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import text

from live_server import crop, enroll, search, serve
from service.settings import Settings
from service.store.database import make_engine

COPIED = "identity_key, camera_id, created_at, sha256, content_type, width, height"
COPIES = (
    "CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < :last)"
    " SELECT i FROM n",
    f"INSERT INTO items (slot, id, {COPIED}) SELECT i, printf('%032d', i), {COPIED} FROM n, items",  # noqa: S608
    'INSERT INTO embeddings (slot, model_version, "values") SELECT i, model_version, "values"'
    " FROM n, embeddings",
    "INSERT INTO changes (sequence, kind, at) SELECT i, 'activated', created_at FROM n, models",
    "UPDATE galleries SET newest_change = :last",
)
"""Give the one item of a gallery so many copies."""


def page(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.get("/gallery", params=fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def read_all(client: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    items = []
    while True:
        body = page(client, **fields)
        items += body["items"]
        if body["next_cursor"] is None:
            return items
        fields["cursor"] = body["next_cursor"]


def delete(client: httpx.Client, only: dict[str, Any], **fields: Any) -> httpx.Response:
    return client.post("/gallery/delete", json={"filter": only} | fields)


def test_pages_hold_every_item_once_in_the_order_of_enrolment(client: httpx.Client) -> None:
    assert (page(client)["items"], page(client)["next_cursor"]) == ([], None)
    items = [*enroll(client, *[crop(seed) for seed in range(4)]), *enroll(client, crop(9), identity_id="x")]
    for limit in (1, 2, 4, 5, 6):
        listed = read_all(client, limit=limit)
        assert [item["id"] for item in listed] == [item["id"] for item in items]
    assert listed[-1]["identity_id"] == "x"
    assert set(items[0]) - {"is_new"} == set(listed[0])


def test_a_cursor_tells_no_number_and_serves_another_process(settings: Settings) -> None:
    with serve(settings) as client:
        ids = [enroll(client, crop(seed))[0]["id"] for seed in range(3)]
        cursors = [page(client, limit=limit)["next_cursor"] for limit in (1, 2)]
    first, second = (urlsafe_b64decode(cursor) for cursor in cursors)
    assert sum(one != other for one, other in zip(first, second, strict=True)) > len(first) // 2
    with serve(settings) as client:
        assert [one["id"] for one in page(client, cursor=cursors[1])["items"]] == ids[2:]
        for changed in (cursors[1][:-2], cursors[1][::-1], cursors[1].swapcase()):
            assert client.get("/gallery", params={"cursor": changed}).status_code == 422


def test_a_cursor_stays_right_while_items_come_and_go(client: httpx.Client) -> None:
    ids = [item["id"] for item in enroll(client, *[crop(seed) for seed in range(8)])]
    first = page(client, limit=3)
    for gone in (ids[0], ids[2], ids[3]):  # before the cursor, the one it stands on, and the one after
        client.delete(f"/gallery/{gone}")
    ids += [item["id"] for item in enroll(client, crop(20), crop(21))]
    rest = read_all(client, limit=2, cursor=first["next_cursor"])
    assert [item["id"] for item in rest] == ids[4:]


def test_a_list_read_while_many_enrol_and_delete_misses_nothing_that_stayed(client: httpx.Client) -> None:
    stay = {item["id"] for item in enroll(client, *[crop(seed) for seed in range(20)])}

    def come_and_go(seed: int) -> None:
        (item,) = enroll(client, crop(100 + seed))
        client.delete(f"/gallery/{item['id']}")

    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(come_and_go, seed) for seed in range(20)]
        while not all(future.done() for future in futures):
            listed = [item["id"] for item in read_all(client, limit=3)]
            assert len(set(listed)) == len(listed)
            assert stay <= set(listed)
        for future in futures:
            future.result()


def test_a_list_takes_the_filters_of_a_search(client: httpx.Client) -> None:
    enroll(client, crop(1), identity_id="a", camera_id="1", captured_at="2026-01-01T00:00:00Z")
    enroll(client, crop(2), identity_id="b", camera_id="2", track_id="t")
    for fields, expected in (
        ({"camera_id": "1"}, "a"),
        ({"camera_id": ["1", "2"]}, "ab"),
        ({"exclude_camera_id": "1"}, "b"),
        ({"captured_after": "2025-12-31T23:59:59Z"}, "a"),
        ({"track_id": "t"}, "b"),
        ({"identity_id": "nobody"}, ""),
        ({"exclude_identity_id": "a"}, "b"),
        ({"attribute": "hat=red"}, ""),
    ):
        assert "".join(item["identity_id"] for item in page(client, **fields)["items"]) == expected
        found = search(client, crop(1), **fields)["matches"]
        assert "".join(sorted(match["identity_id"] for match in found)) == expected


def test_a_list_gives_embeddings_when_it_is_asked_for_them(client: httpx.Client) -> None:
    enroll(client, crop(1), crop(2))
    items = page(client, embeddings=True)["items"]
    embeddings_ND = np.stack([np.frombuffer(b64decode(item.pop("embedding")), "<f2") for item in items])
    assert items == page(client)["items"]
    cosine = float(embeddings_ND[0].astype(np.float32) @ embeddings_ND[1].astype(np.float32))
    _, other = search(client, crop(1), group_by="item")["matches"]
    assert other["score"] == pytest.approx(cosine, abs=2e-3)


@pytest.mark.parametrize(
    "fields",
    [
        {"limit": 0},
        {"limit": 1001},
        {"embeddings": "some"},
        {"cursor": "x"},
        {"cursor": "YWZ0ZXIgLTE"},
        {"cursor": "ä"},
        {"captured_after": "yesterday"},
        {"attribute": "red"},
        {"colour": "red"},
        {"query_camera_id": "1"},
    ],
)
def test_a_list_that_makes_no_sense_is_refused(shared_client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = shared_client.get("/gallery", params=fields)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert next(iter(fields)) in json.dumps(answer.json()["errors"]) or "exclude_same" in answer.text


def test_many_items_are_deleted_at_once_when_their_count_is_right(
    client: httpx.Client, either_settings: Settings
) -> None:
    for seed in range(6):
        enroll(client, crop(seed), crop(seed, 1), camera_id=str(seed % 2), identity_id=f"p{seed}")
    only = {"camera_id": ["1"]}
    counted = delete(client, only, dry_run=True).json()
    assert (counted["num_items"], counted["deleted"]) == (6, False)
    refused = delete(client, only, expected_count=5)
    assert (refused.status_code, refused.json()["code"], refused.json()["num_items"]) == (
        409,
        "count_differs",
        6,
    )
    assert len(page(client)["items"]) == 12
    answer = delete(client, only, expected_count=6).json()
    assert (answer["num_items"], answer["deleted"]) == (6, True)
    assert {item["identity_id"] for item in page(client)["items"]} == {"p0", "p2", "p4"}
    assert search(client, crop(1), top_k=100)["num_searched"] == 6
    assert len([path for path in either_settings.crops_dir.rglob("*") if path.is_file()]) == 6
    assert delete(client, {}, expected_count=6).json()["deleted"]
    engine = make_engine(either_settings.database_url)
    with engine.connect() as connection:
        for table in ("items", "embeddings", "identities", "doomed_crops"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 0  # noqa: S608
    engine.dispose()


def test_a_deletion_without_a_count_or_with_a_filter_that_makes_no_sense_deletes_nothing(
    client: httpx.Client,
) -> None:
    enroll(client, crop(1))
    bodies: tuple[dict[str, Any], ...] = (
        {"filter": {}},
        {"filter": {"camera": "1"}, "expected_count": 1},
        {"filter": {"captured_after": "now"}, "expected_count": 1},
        {"expected_count": 1},
        {"filter": {}, "expected_count": -1},
        {"filter": {"query_camera_id": "1"}, "expected_count": 1},
    )
    for body in bodies:
        answer = client.post("/gallery/delete", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), body
    assert len(page(client)["items"]) == 1


def test_more_items_than_a_statement_can_name_are_deleted(
    tmp_path: Path, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(tmp_path / "data")
    with serve(settings) as client:
        enroll(client, crop(1), camera_id="copied")
    engine = make_engine(settings.database_url)
    num = 40_000
    with engine.begin() as connection:
        for statement in COPIES:
            connection.execute(text(statement), {"last": num + 9})
    engine.dispose()
    with serve(settings) as client:
        assert delete(client, {"camera_id": "copied"}, expected_count=num + 1).json()["deleted"]
        assert search(client, crop(1))["num_searched"] == 0
