"""A key that is limited to a camera sees, searches and enrols only what that camera has seen."""

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx
import pytest

from keyed import as_key, make_key
from live_server import crop, enroll, images, search, serve, wait_for_job
from service.settings import Settings

SEEN: dict[str, list[tuple[str | None, int]]] = {
    "anna": [("hall", 2), ("door", 1)],
    "bert": [("hall", 3)],
    "carl": [("door", 4)],
    "dora": [(None, 5)],
}
"""Each person with the camera and the number of each crop."""


class World(NamedTuple):
    """A gallery, and clients of it: an admin, and an operator who is limited to the camera door."""

    admin: httpx.Client
    door: httpx.Client
    items: dict[tuple[str, str | None], dict[str, Any]]


@pytest.fixture(scope="module")
def world(
    make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    chosen = make_settings(tmp_path_factory.mktemp("cameras"))
    with serve(chosen) as client, ExitStack() as stack:
        items = {}
        for name, crops in SEEN.items():
            for camera, seed in crops:
                fields = {"captured_at": f"2026-03-01T08:0{seed}:00Z"} | (
                    {"camera_id": camera} if camera else {}
                )
                (items[name, camera],) = enroll(client, crop(seed), identity_id=name, **fields)
        door = stack.enter_context(as_key(client, make_key(chosen, "operator", cameras=["door"])))
        admin = stack.enter_context(as_key(client, make_key(chosen, "admin")))
        yield World(admin, door, items)


def test_the_order_of_people_does_not_tell_whom_another_camera_saw_first(world: World) -> None:
    for seed, (name, camera) in enumerate((("zoe", "hall"), ("yan", "door"), ("zoe", "door")), start=20):
        enroll(world.admin, crop(seed), identity_id=name, camera_id=camera)
    pages = [world.door.get("/identities", params={"limit": 3}).json()]
    pages.append(world.door.get("/identities", params={"cursor": pages[0]["next_cursor"]}).json())
    assert [one["id"] for page in pages for one in page["identities"]] == ["anna", "carl", "yan", "zoe"]
    for name in ("yan", "zoe"):
        assert world.admin.delete(f"/identities/{name}").status_code == 204


def test_lists_have_what_the_camera_has_seen(world: World) -> None:
    listed = world.door.get("/gallery").json()["items"]
    assert [(one["identity_id"], one["camera_id"]) for one in listed] == [("anna", "door"), ("carl", "door")]
    assert len(world.admin.get("/gallery").json()["items"]) == 5
    people = world.door.get("/identities").json()["identities"]
    assert [(one["id"], one["num_items"], one["cameras"]) for one in people] == [
        ("anna", 1, ["door"]),
        ("carl", 1, ["door"]),
    ]
    assert people[0]["first_seen"] == people[0]["last_seen"] == "2026-03-01T08:01:00Z"
    assert people[0]["created_at"] == world.items["anna", "door"]["created_at"]


@pytest.mark.parametrize("what", ["", "/image", "/thumbnail"])
def test_items_of_other_cameras_are_not_found(world: World, what: str) -> None:
    for (_, camera), item in world.items.items():
        expected = 200 if camera == "door" else 404
        assert world.door.get(f"/gallery/{item['id']}{what}").status_code == expected
        assert world.admin.get(f"/gallery/{item['id']}{what}").status_code == 200


def test_people_whom_the_camera_has_not_seen_are_not_found(world: World) -> None:
    for what in ("", "/items", "/timeline"):
        assert world.door.get(f"/identities/bert{what}").status_code == 404
        assert world.door.get(f"/identities/dora{what}").status_code == 404
    assert [one["camera_id"] for one in world.door.get("/identities/anna/items").json()["items"]] == ["door"]
    timeline = world.door.get("/identities/anna/timeline").json()
    assert [visit["camera_id"] for visit in timeline["visits"]] == ["door"]
    assert timeline["num_untimed"] == 0


def test_a_search_ranks_what_the_camera_has_seen(world: World) -> None:
    for seed in (2, 3, 5):
        found = search(world.door, crop(seed, 1), top_k=100)
        assert (found["num_searched"], found["num_identities"]) == (2, 2)
        assert {item["camera_id"] for match in found["matches"] for item in match["items"]} == {"door"}
    everything = search(world.admin, crop(3, 1))
    assert (everything["num_searched"], everything["num_identities"]) == (5, 4)
    assert everything["matches"][0]["identity_id"] == "bert"
    assert world.door.get("/identities/suggestions", params={"of": "bert"}).status_code == 404
    suggested = world.door.get("/identities/suggestions", params={"min_score": -1}).json()["suggestions"]
    assert {side["identity_id"] for pair in suggested for side in pair["identities"]} == {"anna", "carl"}


def test_a_verification_compares_with_what_the_camera_has_seen(world: World) -> None:
    own = world.door.post("/verify", files=images(crop(1)), data={"identity_id": "anna"}).json()["score"]
    of_both = world.admin.post("/verify", files=images(crop(1)), data={"identity_id": "anna"}).json()["score"]
    assert own == pytest.approx(1, abs=2e-3)
    assert of_both < own - 0.01
    refused = world.door.post("/verify", files=images(crop(1)), data={"identity_id": "bert"})
    assert refused.status_code == 404


@pytest.mark.parametrize("camera", ["hall", "DOOR", "door2"])
def test_another_camera_cannot_be_named(world: World, camera: str) -> None:
    answers = [
        world.door.get("/gallery", params={"camera_id": ["door", camera]}),
        world.door.get("/identities/suggestions", params={"camera_id": camera}),
        world.door.get("/identities", params={"camera_id": camera}),
        world.door.get("/identities/anna/items", params={"camera_id": camera}),
        world.door.get("/identities/anna/timeline", params={"camera_id": camera}),
        world.door.get("/cameras", params={"camera_id": camera}),
        world.door.post("/search", files=images(crop(1)), data={"camera_id": camera}),
        world.door.post("/gallery", files=images(crop(9)), data={"camera_id": camera}),
        world.door.patch(f"/gallery/{world.items['carl', 'door']['id']}", json={"camera_id": camera}),
    ]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(403, "camera_forbidden")}


def test_crops_are_enrolled_for_the_camera_alone(world: World) -> None:
    assert world.door.post("/gallery", files=images(crop(9))).json()["code"] == "camera_forbidden"
    forged = '[{"camera_id": "door"}, {"camera_id": "hall"}]'
    answer = world.door.post("/gallery", files=images(crop(9), crop(10)), data={"metadata": forged})
    assert answer.json()["code"] == "camera_forbidden"
    (item,) = enroll(world.door, crop(9), camera_id="door", identity_id="eve")
    assert world.admin.delete("/identities/eve").status_code == 204
    assert world.door.get(f"/gallery/{item['id']}").status_code == 404


def test_nobody_whom_the_camera_has_not_seen_gets_its_crops(world: World) -> None:
    named = {"camera_id": "door", "identity_id": "bert"}
    item = world.items["carl", "door"]["id"]
    answers = [
        world.door.post("/gallery", files=images(crop(9)), data=named),
        world.door.post("/gallery", files=images(crop(9)), data=named, headers={"Prefer": "respond-async"}),
        world.door.post("/gallery", files={"archive": ("a.tar", _archive(("door",), "bert"))}),
        world.door.patch(f"/gallery/{item}", json={"identity_id": "bert"}),
    ]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(403, "camera_forbidden")}
    assert world.door.get("/identities/bert").status_code == 404


def test_an_archive_is_refused_whole_if_a_crop_is_of_another_camera(world: World) -> None:
    jobs = len(world.admin.get("/jobs").json()["jobs"])
    for cameras, status in ((("door", "hall"), 403), (("door", ""), 403), (("door", "door"), 202)):
        answer = world.door.post("/gallery", files={"archive": ("a.tar", _archive(cameras))})
        assert answer.status_code == status, answer.text
    assert wait_for_job(world.door, answer.headers["location"])["state"] == "succeeded"
    assert len(world.admin.get("/jobs").json()["jobs"]) == jobs + 1


def _archive(cameras: tuple[str, ...], name: str = "frank") -> bytes:
    rows = [f"{place}.jpg,{name},{camera}" for place, camera in enumerate(cameras)]
    files = {"gallery.csv": "\n".join(["path,identity_id,camera_id", *rows]).encode()}
    files |= {f"{place}.jpg": crop(20 + place) for place in range(len(cameras))}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_jobs_of_others_are_not_found(world: World) -> None:
    answer = world.admin.post("/gallery", files={"archive": ("a.tar", _archive(("hall", "door"), "frank"))})
    job = wait_for_job(world.admin, answer.headers["location"])
    assert world.door.get(f"/jobs/{job['id']}").status_code == 404
    assert world.door.delete(f"/jobs/{job['id']}").status_code == 404
    own = {one["id"] for one in world.door.get("/jobs").json()["jobs"]}
    assert own < {one["id"] for one in world.admin.get("/jobs").json()["jobs"]}
    assert job["id"] not in own


def test_what_concerns_all_cameras_is_forbidden(world: World) -> None:
    item_id = world.items["anna", "door"]["id"]
    answers = [
        world.door.post("/identities/anna/merge", json={"source_ids": ["bert"]}),
        world.door.post("/identities/anna/split", json={"item_ids": [item_id]}),
        world.door.patch("/identities/anna", json={"name": "Anna"}),
        world.door.get("/operations"),
        world.door.get("/retention"),
    ]
    assert {answer.json()["code"] for answer in answers} == {"camera_forbidden"}


def test_a_cursor_is_of_one_list(world: World) -> None:
    cursor = world.door.get("/gallery", params={"limit": 1}).json()["next_cursor"]
    for path in ("/identities", "/identities/anna/items", "/identities/anna/timeline"):
        assert world.door.get(path, params={"cursor": cursor}).status_code == 422
    assert world.door.get("/gallery", params={"cursor": cursor}).status_code == 200


def test_a_job_names_no_item_that_was_moved_to_another_camera(world: World) -> None:
    for num_existing in (0, 1):
        answer = world.door.post("/gallery", files={"archive": ("a.tar", _archive(("door",), "witness"))})
        job = wait_for_job(world.door, answer.headers["location"])
        assert len(job["existing"]) == num_existing
    item = job["existing"][0]["item_id"]
    moved = world.admin.patch(f"/gallery/{item}", json={"camera_id": "vault", "identity_id": "secret"})
    assert moved.status_code == 200
    listed = {one["id"]: one for one in world.door.get("/jobs").json()["jobs"]}
    for seen in (world.door.get(f"/jobs/{job['id']}").json(), listed[job["id"]]):
        assert (seen["num_existing"], seen["existing"]) == (1, [])
    assert len(world.admin.get(f"/jobs/{job['id']}").json()["existing"]) == 1
    assert world.admin.delete(f"/gallery/{item}").status_code == 204
