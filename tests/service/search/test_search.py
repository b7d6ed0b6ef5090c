"""Searching over HTTP: order, grouping, filters, and what a query may be."""

from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from live_server import crop, enroll, images, search
from model.checkpoint import load_checkpoint
from model.embedder import Embedder
from service.settings import Settings

SEEN = {"query_camera_id": "1", "query_captured_at": "2026-01-01T00:00:00Z"}


def ids(answer: dict[str, Any]) -> list[str]:
    return [match["identity_id"] for match in answer["matches"]]


def test_a_person_seen_before_comes_first(client: httpx.Client) -> None:
    for seed in range(12):
        enroll(client, crop(seed), crop(seed, variant=1), identity_id=f"p{seed}", camera_id="a")
    for seed in range(12):
        answer = search(client, crop(seed, variant=2), top_k=3)
        assert ids(answer)[0] == f"p{seed}"
        assert [match["rank"] for match in answer["matches"]] == [1, 2, 3]
        assert answer["num_searched"] == 24
        assert answer["took_ms"] > 0
        best = answer["matches"][0]
        assert best["score"] == best["items"][0]["score"] > 0.9
        assert set(best["items"][0]) >= {"id", "score", "camera_id", "captured_at", "track_id", "image_url"}


def test_an_empty_gallery_answers_without_matches(client: httpx.Client) -> None:
    answer = search(client, crop(1))
    assert (answer["matches"], answer["num_searched"]) == ([], 0)
    assert answer["model_version"]
    assert answer["request_id"]


def test_scores_are_cosines_with_the_normalised_mean_of_the_query_crops(
    client: httpx.Client, either_settings: Settings
) -> None:
    assert either_settings.default_checkpoint
    embedder = Embedder(
        load_checkpoint(either_settings.default_checkpoint), cache_dir=either_settings.cache_dir
    )
    enroll(client, crop(1), identity_id="one")
    answer = search(client, crop(2), crop(3))
    decoded = [Image.open(BytesIO(crop(seed))).convert("RGB") for seed in (1, 2, 3)]
    gallery_D, *query_QD = embedder.embed(decoded)
    mean_D = np.mean(query_QD, axis=0)
    expected = float(gallery_D @ mean_D / np.linalg.norm(mean_D))
    assert answer["matches"][0]["score"] == pytest.approx(expected, abs=2e-3)


def test_a_match_shows_its_five_best_items_and_one_when_grouped_by_item(client: httpx.Client) -> None:
    enroll(client, *[crop(1, variant) for variant in range(8)], identity_id="anna")
    enroll(client, crop(2), identity_id="berta")
    anna, berta = search(client, crop(1))["matches"]
    assert (len(anna["items"]), len(berta["items"])) == (5, 1)
    scores = [item["score"] for item in anna["items"]]
    assert scores == sorted(scores, reverse=True)
    by_item = search(client, crop(1), group_by="item", top_k=7)["matches"]
    assert [(match["identity_id"], len(match["items"])) for match in by_item] == [("anna", 1)] * 7
    assert [match["items"][0]["id"] for match in by_item[:5]] == [item["id"] for item in anna["items"]]


def test_top_k_identities_are_found_behind_any_number_of_items_of_one(client: httpx.Client) -> None:
    for start in range(0, 128, 64):
        enroll(client, *[crop(1, variant) for variant in range(start, start + 64)], identity_id="crowd")
    for seed in range(2, 6):
        enroll(client, crop(seed), identity_id=f"p{seed}")
    answer = search(client, crop(1), top_k=5)
    assert ids(answer)[0] == "crowd"
    assert sorted(ids(answer)[1:]) == ["p2", "p3", "p4", "p5"]


def test_a_search_by_camera_shows_the_best_sighting_of_each_and_by_track_the_best_items(
    client: httpx.Client,
) -> None:
    for camera in ("a", "b", "c"):
        for seed in (1, 2):
            fields = {"identity_id": f"p{seed}", "camera_id": camera, "track_id": f"{camera}{seed}"}
            enroll(client, *[crop(seed, variant) for variant in range(7)], **fields)
    enroll(client, crop(1, 8), crop(2, 8), identity_id="nowhere")
    cameras = search(client, crop(1, 3), group_by="camera")["matches"]
    assert sorted(str(match["items"][0]["camera_id"]) for match in cameras) == ["None", "a", "b", "c"]
    assert {match["identity_id"] for match in cameras} == {"p1", "nowhere"}
    assert [len(match["items"]) for match in cameras] == [1] * 4
    tracks = search(client, crop(1, 3), group_by="track", top_k=5)["matches"]
    assert sorted(str(match["items"][0]["track_id"]) for match in tracks[:4]) == ["None", "a1", "b1", "c1"]
    assert sorted(len(match["items"]) for match in tracks) == [1, 5, 5, 5, 5]
    everything = search(client, crop(1, 3), group_by="track", top_k=100)["matches"]
    assert len(everything) == 3 * 2 + 2


def test_ties_are_broken_by_id(client: httpx.Client) -> None:
    for name in ("d", "b", "a", "c"):
        enroll(client, crop(1), crop(1), identity_id=name)
    assert ids(search(client, crop(1))) == ["a", "b", "c", "d"]
    assert ids(search(client, crop(1), top_k=2)) == ["a", "b"]
    shown = [m["items"][0]["id"] for m in search(client, crop(1), group_by="item", top_k=3)["matches"]]
    every = [m["items"][0]["id"] for m in search(client, crop(1), group_by="item", top_k=100)["matches"]]
    assert every == sorted(every)
    assert shown == every[:3]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "abcd"),
        ({"camera_id": "1"}, "a"),
        ({"camera_id": ["1", "2"]}, "ab"),
        ({"camera_id": ["1", ""]}, "a"),
        ({"camera_id": "nowhere"}, ""),
        ({"exclude_camera_id": "1"}, "bcd"),
        ({"exclude_camera_id": ["1", "2"]}, "cd"),
        ({"camera_id": ["1", "2"], "exclude_camera_id": "2"}, "a"),
        ({"captured_after": "2026-01-02T00:00:00Z"}, "bc"),
        ({"captured_after": "2026-01-02T01:00:00+01:00"}, "bc"),
        ({"captured_after": "2026-01-02T00:00:00.000001Z"}, "c"),
        ({"captured_before": "2026-01-02T00:00:00Z"}, "a"),
        ({"captured_before": "2026-01-02T00:00:00.000001Z"}, "ab"),
        ({"captured_after": "2026-01-02T00:00:00Z", "captured_before": "2026-01-03T00:00:00Z"}, "b"),
        ({"captured_after": "", "captured_before": ""}, "abcd"),
        ({"identity_id": "a"}, "a"),
        ({"identity_id": ["a", "d", "nobody", ""]}, "ad"),
        ({"identity_id": "nobody"}, ""),
        ({"exclude_identity_id": ["a", "nobody"]}, "bcd"),
        ({"identity_id": ["a", "b"], "exclude_identity_id": "b"}, "a"),
        ({"track_id": "t"}, "ab"),
        ({"track_id": ["t", "u"], "exclude_track_id": "u"}, "ab"),
        ({"exclude_track_id": "t"}, "cd"),
        ({"track_id": "nothing"}, ""),
        (SEEN | {"exclude_same_camera_s": "0"}, "bcd"),
        (SEEN | {"exclude_same_camera_s": "0", "query_captured_at": "2026-01-01T00:00:00.1Z"}, "abcd"),
        (SEEN | {"exclude_same_camera_s": "0.1", "query_captured_at": "2026-01-01T00:00:00.1Z"}, "bcd"),
        (SEEN | {"exclude_same_camera_s": "1e9", "query_camera_id": "4"}, "abcd"),
        ({"exclude_same_camera_s": "", "query_camera_id": "", "query_captured_at": ""}, "abcd"),
        ({"min_score": "1"}, ""),
        ({"min_score": "-1"}, "abcd"),
        ({"top_k": "1000"}, "abcd"),
    ],
)
def test_filters_let_through_what_they_say(
    filtered_client: httpx.Client, fields: dict[str, Any], expected: str
) -> None:
    answer = search(filtered_client, crop(77), **fields)
    assert sorted(ids(answer)) == list(expected)
    if "min_score" not in fields:
        assert answer["num_searched"] == len(expected)


@pytest.fixture(scope="module")
def filtered_client(shared_client: httpx.Client) -> httpx.Client:
    enroll(
        shared_client,
        crop(1),
        identity_id="a",
        camera_id="1",
        captured_at="2026-01-01T00:00:00Z",
        track_id="t",
    )
    enroll(
        shared_client,
        crop(2),
        identity_id="b",
        camera_id="2",
        captured_at="2026-01-02T00:00:00Z",
        track_id="t",
    )
    enroll(shared_client, crop(3), identity_id="c", captured_at="2026-01-03T00:00:00Z")
    enroll(shared_client, crop(4), identity_id="d", camera_id="4")
    return shared_client


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"top_k": "0"}, "top_k"),
        ({"top_k": "1001"}, "top_k"),
        ({"top_k": "abc"}, "top_k"),
        ({"top_k": "nan"}, "top_k"),
        ({"min_score": "nan"}, "min_score"),
        ({"min_score": "inf"}, "min_score"),
        ({"min_score": "1.1"}, "min_score"),
        ({"group_by": "shop"}, "group_by"),
        ({"exclude_same_camera_s": "5"}, "query_camera_id"),
        ({"exclude_same_camera_s": "5", "query_camera_id": "1"}, "query_captured_at"),
        ({"query_camera_id": "1", "query_captured_at": "2026-01-01T00:00:00Z"}, "exclude_same_camera_s"),
        ({"exclude_same_camera_s": "-1"}, "exclude_same_camera_s"),
        ({"exclude_same_camera_s": "nan"}, "exclude_same_camera_s"),
        ({"identity_id": "a\x00b"}, "identity_id"),
        ({"track_id": "x" * 256}, "track_id"),
        ({"captured_after": "yesterday"}, "captured_after"),
        ({"captured_after": "2026-01-01T00:00:00"}, "captured_after"),
        ({"captured_before": "1700000000"}, "captured_before"),
        (
            {"captured_after": "2026-01-02T00:00:00Z", "captured_before": "2026-01-01T00:00:00Z"},
            "captured_after",
        ),
        ({"camera_id": "a\x00b"}, "camera_id"),
        ({"camera_id": "x" * 256}, "camera_id"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(
    shared_client: httpx.Client, fields: dict[str, str], where: str
) -> None:
    answer = shared_client.post("/search", files=images(crop(1)), data=fields)
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == "invalid_request"
    assert where in problem["errors"][0]["loc"]
    assert where in problem["detail"]


def test_between_one_and_sixteen_query_crops_are_taken(shared_client: httpx.Client) -> None:
    assert search(shared_client, *[crop(seed) for seed in range(16)])
    assert shared_client.post("/search", files=images(*[crop(0)] * 17)).status_code == 422
    assert shared_client.post("/search", files={"top_k": (None, "3")}).status_code == 422
