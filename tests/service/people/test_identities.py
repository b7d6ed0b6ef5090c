"""Identities over HTTP: made, described, listed, and when and where they were seen."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live_server import crop, enroll, images, search
from service.people.identities import visits

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def get(client: httpx.Client, path: str, **fields: Any) -> dict[str, Any]:
    answer = client.get(path, params=fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def ids_of(client: httpx.Client, **fields: Any) -> list[str]:
    return [identity["id"] for identity in get(client, "/identities", **fields)["identities"]]


def test_an_identity_is_made_described_and_shown(client: httpx.Client) -> None:
    body = {"id": "anna", "name": "Anna", "notes": "staff", "attributes": {"hat": "red", "site": "north"}}
    answer = client.post("/identities", json=body)
    assert (answer.status_code, answer.headers["location"]) == (201, "/identities/anna")
    shown = get(client, "/identities/anna")
    assert {field: shown[field] for field in body} == body
    assert (shown["num_items"], shown["first_seen"], shown["last_seen"]) == (0, None, None)
    enroll(client, crop(1), crop(2), identity_id="anna", captured_at="2026-01-02T00:00:00Z")
    for seed, camera_id in ((3, "hall"), (4, "door"), (5, "hall")):
        seen = {"camera_id": camera_id, "captured_at": "2026-01-01T00:00:00Z"}
        enroll(client, crop(seed), identity_id="anna", **seen)
    shown = get(client, "/identities/anna")
    assert (shown["num_items"], shown["name"], shown["cameras"]) == (5, "Anna", ["door", "hall"])
    assert datetime.fromisoformat(shown["first_seen"]) == EPOCH
    assert datetime.fromisoformat(shown["last_seen"]) == EPOCH + timedelta(days=1)
    changed = client.patch("/identities/anna", json={"name": None, "attributes": {"hat": "blue"}}).json()
    assert (changed["name"], changed["notes"], changed["attributes"]) == (None, "staff", {"hat": "blue"})
    assert client.patch("/identities/anna", json={}).json()["notes"] == "staff"
    again = client.post("/identities", json={"id": "anna"})
    assert (again.status_code, again.json()["code"]) == (409, "identity_exists")
    unnamed = client.post("/identities", json={}).json()["id"]
    assert get(client, f"/identities/{unnamed}")["id"] == unnamed


def test_an_identity_that_was_made_or_described_outlives_its_last_item(client: httpx.Client) -> None:
    client.post("/identities", json={"id": "made"})
    items = [enroll(client, crop(1), identity_id=name)[0]["id"] for name in ("made", "described", "neither")]
    client.patch("/identities/described", json={"name": "D"})
    for item_id in items:
        assert client.delete(f"/gallery/{item_id}").status_code == 204
    assert ids_of(client) == ["made", "described"]


def test_identities_are_listed_in_pages_by_name_and_attribute(client: httpx.Client) -> None:
    for number, name in enumerate(("Anna", "anne_x", "Bert%", "")):
        attributes = {"hat": "red" if number % 2 else "blue", "site": "north"}
        client.post("/identities", json={"id": f"p{number}", "name": name, "attributes": attributes})
    enroll(client, crop(1), identity_id="p4")
    assert ids_of(client) == ["p0", "p1", "p2", "p3", "p4"]
    pages = [get(client, "/identities", limit=2)]
    while pages[-1]["next_cursor"]:
        pages.append(get(client, "/identities", limit=2, cursor=pages[-1]["next_cursor"]))
    assert [one["id"] for page in pages for one in page["identities"]] == ids_of(client)
    assert ids_of(client, name="ANN") == ["p0", "p1"]
    assert ids_of(client, name="%") == ["p2"]
    assert ids_of(client, name="_") == ["p1"]
    assert ids_of(client, attribute="hat=red") == ["p1", "p3"]
    assert ids_of(client, attribute=["hat=red", "site=north"]) == ["p1", "p3"]
    assert ids_of(client, attribute=["hat=red", "hat=blue"]) == []


def test_searches_and_lists_find_by_the_attributes_of_now(client: httpx.Client) -> None:
    for seed in range(3):
        enroll(client, crop(seed), identity_id=f"p{seed}")
    client.patch("/identities/p0", json={"attributes": {"hat": "red", "a": "b=c"}})
    client.patch("/identities/p1", json={"attributes": {"hat": "red"}})

    def found(**fields: Any) -> list[str]:
        return sorted(match["identity_id"] for match in search(client, crop(0), **fields)["matches"])

    assert found(attribute="hat=red") == ["p0", "p1"]
    assert found(attribute=["hat=red", "a=b=c"]) == ["p0"]
    assert found(attribute="hat=red", identity_id=["p1", "p2"]) == ["p1"]
    assert found(attribute="hat=green") == []
    client.patch("/identities/p1", json={"attributes": {}})
    assert found(attribute="hat=red") == ["p0"]
    assert [item["identity_id"] for item in get(client, "/gallery", attribute="hat=red")["items"]] == ["p0"]


@pytest.mark.parametrize(
    "name", ["a/b", "x/items", "suggestions/merge", "ä ö?#%", "%2F", "...", "a+b&c=d", "\u2215"]
)
def test_any_id_is_reached_percent_encoded_and_no_other(shared_client: httpx.Client, name: str) -> None:
    enroll(shared_client, crop(1), identity_id="x")
    made = shared_client.post("/identities", json={"id": name, "notes": name})
    assert made.status_code == 201
    assert get(shared_client, made.headers["location"])["notes"] == name
    path = f"/identities/{quote(name, safe='')}"
    assert get(shared_client, f"{path}/items")["items"] == []
    assert get(shared_client, f"{path}/timeline")["identity_id"] == name
    assert shared_client.patch(path, json={"name": "N"}).json()["id"] == name


@pytest.mark.parametrize("code", ["%00", "%1F", "%1f", "%7F"])
def test_nothing_else_in_a_path_is_taken_for_a_slash(client: httpx.Client, code: str) -> None:
    client.post("/identities", json={"id": "a/b"})
    for path in ("/identities/", "/gallery/", "/operations/", "/jobs/", "/models/"):
        answer = client.get(f"{path}a{code}b{'%2F' if path != '/identities/' else ''}")
        assert answer.status_code in (404, 405), path


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/identities", {"id": "a\x00b"}),
        ("POST", "/identities", {"id": "x" * 256}),
        ("POST", "/identities", {"id": ".."}),
        ("POST", "/identities", {"id": "suggestions"}),
        ("POST", "/identities/anna/split", {"item_ids": ["x"], "identity_id": "suggestions"}),
        ("PATCH", "/gallery/0", {"identity_id": "suggestions"}),
        ("POST", "/identities", {"name": "a\nb"}),
        ("POST", "/identities", {"attributes": {"a=b": "c"}}),
        ("POST", "/identities", {"attributes": {"": "c"}}),
        ("POST", "/identities", {"attributes": {"a": ""}}),
        ("POST", "/identities", {"attributes": {str(i): "x" for i in range(65)}}),
        ("POST", "/identities", {"attributes": {"a": 1}}),
        ("POST", "/identities", {"nmae": "Anna"}),
        ("PATCH", "/identities/anna", {"id": "other"}),
        ("PATCH", "/identities/anna", {"notes": "a\x00b"}),
        ("GET", "/identities?name=a%00b", None),
        ("GET", "/operations?cursor=x", None),
        ("POST", "/identities/anna/merge", {"source_ids": []}),
        ("POST", "/identities/anna/merge", {"source_ids": ["bert", "anna"]}),
        ("POST", "/identities/anna/split", {"item_ids": ["a\x00b"]}),
        ("POST", "/identities/anna/split", {"item_ids": []}),
        ("POST", "/identities/anna/reject", {}),
        ("PATCH", "/gallery/0", {}),
        ("PATCH", "/gallery/0", {"captured_at": "now"}),
    ],
)
def test_what_makes_no_sense_is_refused(
    shared_client: httpx.Client, method: str, path: str, body: dict[str, Any] | None
) -> None:
    answer = shared_client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_no_crop_can_be_enrolled_under_an_id_that_no_url_shows(shared_client: httpx.Client) -> None:
    for form in ({"identity_id": "suggestions"}, {"metadata": '[{"identity_id": "suggestions"}]'}):
        answer = shared_client.post("/gallery", files=images(crop(1)), data=form)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert "choose another" in answer.json()["detail"]


def test_a_slash_in_an_id_is_shown_as_one(shared_client: httpx.Client) -> None:
    for path in ("identities", "gallery", "jobs", "models"):
        answer = shared_client.get(f"/{path}/no%2Fone")
        assert answer.status_code == 404
        assert "'no/one'" in answer.json()["detail"]


def test_what_is_not_there_is_not_found(shared_client: httpx.Client) -> None:
    item_ids = {"item_ids": ["0"]}
    for method, path, body in (
        ("GET", "/identities/nobody", None),
        ("PATCH", "/identities/nobody", {"name": "x"}),
        ("GET", "/identities/nobody/items", None),
        ("GET", "/identities/nobody/timeline", None),
        ("POST", "/identities/nobody/merge", {"source_ids": ["x"]}),
        ("POST", "/identities/nobody/split", item_ids),
        ("POST", "/identities/nobody/reject", item_ids),
        ("GET", "/identities/suggestions?of=nobody", None),
        ("PATCH", "/gallery/0", {"camera_id": "x"}),
        ("GET", "/operations/0", None),
        ("POST", "/operations/0/undo", None),
    ):
        answer = shared_client.request(method, path, json=body)
        assert answer.status_code == 404, path
        assert answer.json()["code"].endswith("not_found")


def test_a_timeline_tells_visits_by_camera(client: httpx.Client) -> None:
    def see(camera_id: str, *seconds: float) -> list[str]:
        seen = {"identity_id": "anna", "camera_id": camera_id, "on_duplicate": "store"}
        times = [EPOCH + timedelta(seconds=second) for second in seconds]
        return [enroll(client, crop(1), captured_at=at.isoformat(), **seen)[0]["id"] for at in times]

    door = see("door", 0, 10, 400, 405)
    hall = see("hall", 5)
    enroll(client, crop(2), identity_id="anna")
    body = get(client, "/identities/anna/timeline")
    assert body["num_untimed"] == 1
    told = [(v["camera_id"], v["num_items"], v["item_id"], v["gap_s"]) for v in body["visits"]]
    assert told == [("door", 2, door[0], None), ("hall", 1, hall[0], None), ("door", 2, door[2], 390.0)]
    assert datetime.fromisoformat(body["visits"][2]["last"]) == EPOCH + timedelta(seconds=405)
    assert len(get(client, "/identities/anna/timeline", visit_gap_s=390)["visits"]) == 2
    assert len(get(client, "/identities/anna/timeline", visit_gap_s=0)["visits"]) == 5
    assert client.get("/identities/anna/timeline", params={"visit_gap_s": "nan"}).status_code == 422


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 30)), max_size=30), st.integers(0, 6)
)
def test_visits_are_what_no_gap_divides(seen: list[tuple[str | None, int]], gap_s: int) -> None:
    seen.sort(key=lambda sighting: sighting[1])
    found = visits([(camera, EPOCH + timedelta(seconds=at), f"{at}") for camera, at in seen], gap_s)
    expected = []
    for camera in ("a", "b", None):
        times = [at for where, at in seen if where == camera]
        starts = [i for i in range(len(times)) if i == 0 or times[i] - times[i - 1] > gap_s]
        for start, end in itertools.pairwise([*starts, len(times)]):
            gap = times[start] - times[start - 1] if start else None
            expected.append((times[start], times[end - 1], end - start, gap, str(camera)))
    told = [
        ((v.first - EPOCH).seconds, (v.last - EPOCH).seconds, v.num_items, v.gap_s, str(v.camera_id))
        for v in found
    ]
    assert sorted(told, key=str) == sorted(expected, key=str)
    assert [v.first for v in found] == sorted(v.first for v in found)
