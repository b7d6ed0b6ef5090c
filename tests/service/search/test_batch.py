"""POST /search/batch: each answer is that of POST /search, the crops are embedded together, all or none."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from audited import rows_of
from keyed import as_key, make_key
from live_server import crop, enroll, images, search, serve, wait_until
from scraped import scrape
from service.settings import Settings


class World(NamedTuple):
    """A gallery of three people, each seen by two cameras, and clients of it."""

    admin: httpx.Client
    door: httpx.Client
    items: list[dict[str, Any]]


@pytest.fixture(scope="module")
def world(
    make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    chosen = make_settings(tmp_path_factory.mktemp("batch"))
    with serve(chosen) as client:
        items = [
            enroll(client, crop(seed, variant), identity_id=f"p{seed}", camera_id=camera)[0]
            for seed in range(3)
            for variant, camera in enumerate(("door", "hall"))
        ]
        limited = as_key(client, make_key(chosen, "reader", cameras=["door"]))
        with limited as door, as_key(client, make_key(chosen, "admin")) as admin:
            yield World(admin, door, items)


def ask(client: httpx.Client, *contents: bytes, queries: Any) -> httpx.Response:
    """Send a batch as a form if it has crops, else as JSON."""
    body = {"queries": queries}
    if contents:
        return client.post("/search/batch", files=images(*contents), data={"queries": json.dumps(body)})
    return client.post("/search/batch", json=body)


def matches(answer: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(match["items"][0]["id"], pytest.approx(match["score"], abs=1e-4)) for match in answer["matches"]]


def test_each_answer_is_that_of_a_search(world: World) -> None:
    item = world.items[0]["id"]
    queries: list[dict[str, Any]] = [
        {"images": [0]},
        {"images": [1, 0], "top_k": 2, "group_by": "camera"},
        {"item_id": [item], "group_by": "item"},
        {"images": [2], "item_id": [item], "images_weight": 2, "filter": {"camera_id": ["hall"]}},
        {"query_identity_id": "p1", "min_score": 0.97},
    ]
    crops = [crop(seed, 5) for seed in range(3)]
    answered = ask(world.admin, *crops, queries=queries)
    assert answered.status_code == 200, answered.text
    assert len(answered.json()["answers"]) == len(queries)
    for query, answer in zip(queries, answered.json()["answers"], strict=True):
        fields = {name: value for name, value in query.items() if name not in ("images", "filter")}
        chosen = [crops[place] for place in query.get("images", [])]
        if chosen:
            alone = search(world.admin, *chosen, **fields | query.get("filter", {}))
        else:
            (alone,) = ask(world.admin, queries=[query]).json()["answers"]
        assert matches(answer) == matches(alone)
        assert answer.keys() == alone.keys()
        assert answer["num_searched"] == alone["num_searched"]


def test_crops_are_embedded_once_and_in_full_batches(world: World) -> None:
    before = scrape(world.admin)
    crops = [crop(seed, 6) for seed in range(20)]
    queries = [{"images": [place]} for place in range(20)] + [{"images": [0, 1]}] * 5
    assert ask(world.admin, *crops, queries=queries).status_code == 200
    after = scrape(world.admin)
    embedded = {
        name: after[name] - before[name] for name in ("reid_batch_crops_sum", "reid_batch_crops_count")
    }
    assert embedded == {"reid_batch_crops_sum": 20, "reid_batch_crops_count": 2}


def test_a_limited_key_searches_among_its_cameras(world: World) -> None:
    answer = ask(world.door, queries=[{"item_id": [world.items[0]["id"]], "group_by": "item"}]).json()
    assert answer["answers"][0]["num_searched"] == 2
    hidden = {"item_id": [world.items[1]["id"]]}
    assert ask(world.door, queries=[hidden]).status_code == 404
    other = {"item_id": [world.items[0]["id"]], "filter": {"camera_id": ["hall"]}}
    assert ask(world.door, queries=[other]).status_code == 403


def test_the_audit_has_one_row_with_every_query(world: World) -> None:
    queries = [{"images": [0], "top_k": 2}, {"item_id": [world.items[2]["id"]], "top_k": 1}]
    assert ask(world.admin, crop(1, 7), queries=queries).status_code == 200

    def newest() -> dict[str, Any]:
        return [{"details": {}}, *rows_of(world.admin, action="search")][-1]

    wait_until(lambda: [one["top_k"] for one in newest()["details"].get("queries", [])] == [2, 1])
    row = newest()
    assert [(one["top_k"], one["num_people"]) for one in row["details"]["queries"]] == [(2, 2), (1, 2)]
    assert [one["relation"] for one in row["people"]] == ["returned", "returned", "query", "returned"]
    assert row["details"]["query_sha256"] == row["details"]["queries"][0]["query_sha256"]


def test_one_fault_refuses_all_and_names_its_query(world: World) -> None:
    good = {"item_id": [world.items[0]["id"]]}
    refused: list[tuple[list[bytes], list[Any], int, list[Any]]] = [
        ([], [], 422, ["body", "queries"]),
        ([], [good] * 101, 422, ["body", "queries"]),
        ([], [good, {}], 422, ["body", "queries", 1, "images"]),
        ([], [good, {"images": [0]}], 422, ["body", "queries", 1, "images"]),
        ([], [good, {"item_ids": ["a"]}], 422, ["body", "queries", 1, "item_ids"]),
        ([], [good, {**good, "top_k": 0}], 422, ["body", "queries", 1, "top_k"]),
        ([], [good, {**good, "item_weight": 0}], 422, ["body", "queries", 1, "item_weight"]),
        ([crop(1)], [good], 422, ["body", "images", 0]),
        ([crop(1), b"no image"], [{"images": [0, 1]}], 422, ["body", "images", 1]),
    ]
    for contents, queries, status, place in refused:
        answer = ask(world.admin, *contents, queries=queries)
        assert answer.status_code == status or answer.status_code == 415, answer.text
        assert answer.json()["errors"][0]["loc"] == place, answer.text
    assert ask(world.admin, queries=[good, {"item_id": ["0" * 32]}]).status_code == 404


def test_a_body_that_is_no_batch_is_refused(world: World) -> None:
    headers = {"content-type": "application/json"}
    for body, status in ((b"{", 422), (b"[]", 422), (b"", 422), (b"{" + b" " * 4 * 1024 * 1024, 413)):
        answer = world.admin.post("/search/batch", content=body, headers=headers)
        assert answer.status_code == status, answer.text
    assert world.admin.post("/search/batch", files=images(crop(1))).status_code == 422
    assert world.admin.post("/search/batch", data={"queries": "{}"}).status_code == 422
