"""Searches by what is stored: items, an identity, embeddings, mixed with images by weights."""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as drawn
from hypothesis import strategies as st
from numpy.typing import NDArray

from audited import rows_of
from keyed import as_key, make_key
from live_server import crop, enroll, images, serve, wait_until
from service.settings import Settings

CAMERAS = ("door", "hall")
PEOPLE = 4


class World(NamedTuple):
    """A gallery of four people, each seen by two cameras, and clients of it."""

    admin: httpx.Client
    door: httpx.Client
    items: list[dict[str, Any]]
    embeddings_ND: NDArray[np.float32]  # noqa: N815 - a shape suffix
    version: str


@pytest.fixture(scope="module")
def world(
    make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    chosen = make_settings(tmp_path_factory.mktemp("sought"))
    with serve(chosen) as client:
        for seed in range(PEOPLE):
            for variant, camera in enumerate(CAMERAS):
                enroll(client, crop(seed, variant), identity_id=f"p{seed}", camera_id=camera)
        listed = client.get("/gallery", params={"embeddings": True}).json()["items"]
        limited = as_key(client, make_key(chosen, "operator", cameras=["door"]))
        with limited as door, as_key(client, make_key(chosen, "admin")) as admin:
            embeddings_ND = np.stack([decoded(item["embedding"]) for item in listed])
            yield World(admin, door, listed, embeddings_ND, listed[0]["model_version"])


def decoded(text: str) -> NDArray[np.float32]:
    return np.frombuffer(b64decode(text), "<f2").astype(np.float32)


def ask(client: httpx.Client, *contents: bytes, **fields: Any) -> httpx.Response:
    """Search with a multipart form, which may have no file."""
    several = {name: value if isinstance(value, list) else [value] for name, value in fields.items()}
    parts: list[Any] = [(name, (None, str(one))) for name, values in several.items() for one in values]
    return client.post("/search", files=[*images(*contents), *parts])


def found(client: httpx.Client, *contents: bytes, **fields: Any) -> dict[str, float]:
    """Return the score of each item that is found, best first."""
    answer = ask(client, *contents, group_by="item", top_k=100, **fields)
    assert answer.status_code == 200, answer.text
    return {match["items"][0]["id"]: match["score"] for match in answer.json()["matches"]}


def unit(rows_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    mean_D = rows_ND.mean(axis=0)
    return np.asarray(mean_D / np.linalg.norm(mean_D), np.float32)


PLACES = st.lists(st.integers(0, 2 * PEOPLE - 1), max_size=3, unique=True)
WEIGHTS = st.floats(0.1, 3)


@drawn(max_examples=30, deadline=None)
@given(
    shown=PLACES,
    unlike=PLACES,
    person=st.none() | st.integers(0, PEOPLE - 1),
    given_places=PLACES,
    weights=st.tuples(*[WEIGHTS] * 4),
)
def test_a_query_is_the_weighted_sum_of_its_parts(
    world: World,
    shown: list[int],
    unlike: list[int],
    person: int | None,
    given_places: list[int],
    weights: tuple[float, float, float, float],
) -> None:
    ids = [item["id"] for item in world.items]
    parts = [
        (places, weight) for places, weight in ((shown, weights[0]), (given_places, weights[2])) if places
    ]
    if person is not None:
        parts.append(([2 * person, 2 * person + 1], weights[1]))
    parts += [(unlike, -weights[3])] if unlike else []
    fields: dict[str, Any] = {
        "item_id": [ids[place] for place in shown],
        "not_item_id": [ids[place] for place in unlike],
        "item_weight": weights[0],
        "query_identity_weight": weights[1],
        "embedding_weight": weights[2],
        "not_item_weight": weights[3],
    }
    if person is not None:
        fields["query_identity_id"] = f"p{person}"
    if given_places:
        fields["embedding"] = [world.items[place]["embedding"] for place in given_places]
        fields["embedding_version"] = world.version
    if not shown and not given_places and person is None:
        assert ask(world.admin, **fields).status_code == 422
        return
    total_D = np.sum([weight * unit(world.embeddings_ND[places]) for places, weight in parts], axis=0)
    if np.linalg.norm(total_D) < 0.05:
        return  # near nothing, rounding decides
    scores_N = world.embeddings_ND @ (total_D / np.linalg.norm(total_D))
    named = {*shown, *unlike}
    expected = {ids[place]: scores_N[place] for place in range(len(ids)) if place not in named}
    assert found(world.admin, **fields) == pytest.approx(expected, abs=2e-3)


def test_an_item_finds_what_its_crop_finds_but_itself(world: World) -> None:
    item, *_ = world.items
    by_crop = found(world.admin, crop(0, 0))
    assert by_crop.pop(item["id"]) == pytest.approx(1, abs=1e-3)
    assert found(world.admin, item_id=item["id"]) == pytest.approx(by_crop, abs=2e-3)
    both = found(world.admin, crop(0, 0), item_id=item["id"], images_weight=2)
    assert both == pytest.approx(by_crop, abs=2e-3)


def test_a_limited_key_searches_by_what_its_cameras_have_seen(world: World) -> None:
    of_door, of_hall = world.items[0], world.items[1]
    for name in ("item_id", "not_item_id"):
        hidden = ask(world.door, crop(1), **{name: of_hall["id"]})
        absent = ask(world.door, crop(1), **{name: "0" * 32})
        assert hidden.status_code == absent.status_code == 404
        assert hidden.json()["detail"].replace(of_hall["id"], "") == absent.json()["detail"].replace(
            "0" * 32, ""
        )
    by_item = found(world.door, item_id=of_door["id"])
    by_person = found(world.door, query_identity_id="p0", exclude_identity_id="p0")
    assert by_person.items() <= by_item.items()  # the mean of the one item that this camera has
    assert set(by_item) == {item["id"] for item in world.items[2::2]}
    assert found(world.admin, query_identity_id="p0", exclude_identity_id="p0") != by_person


def test_rejections_of_a_stored_item_hold(world: World) -> None:
    item = world.items[2]
    rejected = world.admin.post("/identities/p2/reject", json={"item_ids": [item["id"]]})
    assert rejected.status_code == 200, rejected.text
    seen = {one["id"]: one["identity_id"] for one in world.items}
    assert "p2" not in {seen[one] for one in found(world.admin, item_id=item["id"])}
    assert world.admin.post(f"/operations/{rejected.json()['operation_id']}/undo").status_code == 200
    assert "p2" in {seen[one] for one in found(world.admin, item_id=item["id"])}


def test_the_audit_names_whom_a_search_was_for(world: World) -> None:
    shown, unlike = world.items[0], world.items[3]
    text = world.items[5]["embedding"]
    fields = {"not_item_id": unlike["id"], "embedding": text, "embedding_version": world.version}
    found(world.admin, item_id=shown["id"], query_identity_id="p2", item_weight=2.75, **fields)
    wait_until(lambda: rows_of(world.admin, action="search")[-1]["details"].get("item_weight") == 2.75)
    row = rows_of(world.admin, action="search")[-1]
    named = [(one["relation"], one["identity_id"], one["item_id"]) for one in row["people"]]
    assert named[:3] == [("query", "p0", shown["id"]), ("unlike", "p1", unlike["id"]), ("query", "p2", None)]
    assert len(row["details"]["embedding_sha256"]) == 1
    assert row["details"]["query_sha256"] == []


def test_what_cannot_be_searched_by_is_refused_with_the_field(world: World) -> None:
    item, embedding = world.items[0], world.items[0]["embedding"]
    size = len(world.embeddings_ND[0])
    broken = np.full(size, np.nan, "<f2").tobytes()
    refused: list[tuple[dict[str, Any], int, str]] = [
        ({}, 422, "images"),
        ({"not_item_id": item["id"]}, 422, "images"),
        ({"item_id": "nobody"}, 404, "nobody"),
        ({"query_identity_id": "nobody"}, 404, "nobody"),
        ({"item_id": [item["id"]] * 101}, 422, "item_id"),
        ({"item_id": item["id"], "item_weight": -1}, 422, "item_weight"),
        ({"item_id": item["id"], "item_weight": "nan"}, 422, "item_weight"),
        ({"item_id": item["id"], "item_weight": 0}, 422, "add up to nothing"),
        ({"item_id": item["id"], "not_item_id": item["id"], "not_item_weight": 1}, 422, "add up to nothing"),
        ({"embedding": embedding}, 422, "embedding_version"),
        ({"embedding_version": world.version, "item_id": item["id"]}, 422, "embedding"),
        ({"embedding": "?", "embedding_version": world.version}, 422, "base64"),
        ({"embedding": embedding[4:], "embedding_version": world.version}, 422, "bytes"),
        ({"embedding": b64encode(broken).decode(), "embedding_version": world.version}, 422, "no number"),
        ({"embedding": b64encode(bytes(2 * size)).decode(), "embedding_version": world.version}, 422, "zero"),
        ({"embedding": embedding, "embedding_version": "another"}, 409, "another"),
    ]
    for fields, status, told in refused:
        answer = ask(world.admin, **fields)
        assert (answer.status_code, told in answer.text) == (status, True), (fields, answer.text)


def test_an_identity_without_items_is_nobody_to_search_by(world: World) -> None:
    assert world.admin.post("/identities", json={"id": "empty"}).status_code == 201
    answer = ask(world.admin, query_identity_id="empty")
    assert (answer.status_code, "has no items" in answer.text) == (422, True)
