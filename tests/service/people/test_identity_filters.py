"""The filters of a search choose identities, the items of one, and the sightings of a timeline."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from live_server import crop, enroll, search, serve
from service.settings import Settings

PEOPLE = {"anna": {"height": "170"}, "bert": {"height": "-1.5"}, "carl": {"height": "tall"}}


@pytest.fixture
def people(either_settings: Settings) -> Iterator[httpx.Client]:
    """Three people, of whom two were seen, and one who has no item."""
    with serve(either_settings) as client:
        enroll(
            client,
            crop(1),
            identity_id="anna",
            camera_id="door",
            captured_at="2026-03-01T08:00:00Z",
            track_id="1",
        )
        enroll(client, crop(2), identity_id="anna", camera_id="hall", captured_at="2026-03-01T09:00:00Z")
        enroll(client, crop(3), identity_id="anna", camera_id="hall")
        enroll(client, crop(4), identity_id="bert", camera_id="hall", captured_at="2026-03-02T08:00:00Z")
        for identity_id, attributes in PEOPLE.items():
            client.patch(f"/identities/{identity_id}", json={"attributes": attributes})
        client.post("/identities", json={"id": "carl", "attributes": PEOPLE["carl"]})
        yield client


def names(client: httpx.Client, **filters: Any) -> list[str]:
    answer = client.get("/identities", params=filters)
    assert answer.status_code == 200, answer.text
    return [identity["id"] for identity in answer.json()["identities"]]


def test_filters_choose_identities_items_and_sightings(people: httpx.Client) -> None:
    for filters, expected in (
        ({}, ["anna", "bert", "carl"]),
        ({"exclude_identity_id": "anna"}, ["bert", "carl"]),
        ({"identity_id": ["carl", "bert"]}, ["bert", "carl"]),
        ({"camera_id": "door"}, ["anna"]),
        ({"exclude_camera_id": "door"}, ["anna", "bert"]),
        ({"captured_after": "2026-03-02T00:00:00Z"}, ["bert"]),
        ({"track_id": "1", "camera_id": "hall"}, []),
        ({"attribute_at_least": "height=-1.50"}, ["anna", "bert"]),
        ({"attribute_at_least": "height=-1.49"}, ["anna"]),
        ({"attribute_at_most": "height=170"}, ["anna", "bert"]),
        ({"attribute_at_least": "height=0", "attribute_at_most": "height=169.9"}, []),
    ):
        assert names(people, **filters) == expected, filters
    for filters in ({"attribute_at_least": "height=0"}, {"attribute_at_most": "height=0"}):
        found = search(people, crop(1), **filters)["matches"]
        assert [match["identity_id"] for match in found] == names(people, **filters)
        listed = people.get("/gallery", params=filters).json()["items"]
        assert {item["identity_id"] for item in listed} == set(names(people, **filters))
    (anna, *_) = people.get("/identities", params={"camera_id": "door"}).json()["identities"]
    assert (anna["num_items"], anna["cameras"]) == (
        3,
        ["door", "hall"],
    )  # of all items, not of those that pass

    def seen(what: str, **filters: Any) -> Any:
        return people.get(f"/identities/anna/{what}", params=filters).json()

    assert len(seen("items")["items"]) == 3
    assert [one["camera_id"] for one in seen("items", exclude_camera_id="hall")["items"]] == ["door"]
    assert seen("items", captured_after="2026-03-03T00:00:00Z")["items"] == []
    timeline = seen("timeline", camera_id="hall")
    assert ([visit["camera_id"] for visit in timeline["visits"]], timeline["num_untimed"]) == (["hall"], 1)
    timeline = seen("timeline", captured_before="2026-03-01T08:30:00Z")
    assert ([visit["camera_id"] for visit in timeline["visits"]], timeline["num_untimed"]) == (["door"], 0)


@pytest.mark.parametrize("bound", ["height", "height=", "=1", "height=tall", "height=1e3", "height=1,7"])
def test_a_bound_that_is_no_number_is_refused(shared_client: httpx.Client, bound: str) -> None:
    for field in ("attribute_at_least", "attribute_at_most"):
        answer = shared_client.get("/identities", params={field: bound})
        assert answer.status_code == 422
        assert "name=number, such as height=170" in answer.text
