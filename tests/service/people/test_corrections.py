"""Correcting who is who over HTTP: what it does, on every server, and that it can be taken back."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from live_server import crop, enroll, search, serve
from service.settings import Settings

People = dict[str, list[str]]
State = dict[str, Any]


@pytest.fixture
def people(client: httpx.Client) -> People:
    """Three identities with their items."""
    return {
        name: [item["id"] for item in enroll(client, *[crop(seed, v) for v in range(3)], identity_id=name)]
        for seed, name in enumerate(("anna", "bert", "cleo"), 1)
    }


def state_of(client: httpx.Client) -> State:
    """Everything that can be seen of who is who."""
    identities = client.get("/identities").json()["identities"]
    told = {
        one["id"]: {key: one[key] for key in ("name", "notes", "attributes", "num_items")}
        for one in identities
    }
    items = client.get("/gallery").json()["items"]
    return {"identities": told, "items": {item["id"]: item["identity_id"] for item in items}}


def do(client: httpx.Client, path: str, **body: Any) -> str:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    operation_id: str = answer.json()["operation_id"]
    return operation_id


def undo(client: httpx.Client, operation_id: str) -> httpx.Response:
    return client.post(f"/operations/{operation_id}/undo")


def owners(client: httpx.Client, item_ids: list[str]) -> list[str]:
    return [client.get(f"/gallery/{item_id}").json()["identity_id"] for item_id in item_ids]


def test_a_merge_gives_everything_to_one_and_is_taken_back(
    client: httpx.Client, people: People, either_settings: Settings
) -> None:
    assert list(people) == ["anna", "bert", "cleo"]
    client.patch("/identities/bert", json={"name": "Bert", "notes": "b", "attributes": {"hat": "red"}})
    client.patch("/identities/anna", json={"name": "Anna", "attributes": {"hat": "blue"}})
    before = state_of(client)
    with serve(either_settings) as other:
        operation_id = do(client, "/identities/anna/merge", source_ids=["bert", "cleo", "bert"])
        for server in (client, other):
            (match,) = search(server, crop(2))["matches"]
            assert (match["identity_id"], len(match["items"])) == ("anna", 5)
        merged = state_of(other)["identities"]
        assert list(merged) == ["anna"]
        assert (merged["anna"]["num_items"], merged["anna"]["name"]) == (9, "Anna")
        assert (merged["anna"]["notes"], merged["anna"]["attributes"]) == ("b", {"hat": "blue"})
        assert client.get("/identities/bert").status_code == 404
        shown = client.get(f"/operations/{operation_id}").json()
        assert (shown["kind"], shown["undone_at"]) == ("merge", None)
        assert undo(other, operation_id).status_code == 200
        for server in (client, other):
            assert state_of(server) == before
            assert search(server, crop(2))["matches"][0]["identity_id"] == "bert"
    assert (undo(client, operation_id).status_code, state_of(client)) == (409, before)


def test_a_split_gives_items_to_a_new_or_another_identity_and_is_taken_back(
    client: httpx.Client, people: People
) -> None:
    before = state_of(client)
    first, second, third = people["anna"]
    own = do(client, "/identities/anna/split", item_ids=[first, second])
    new, _, stayed = owners(client, people["anna"])
    assert [new] == owners(client, [second])
    assert new not in people
    assert stayed == "anna"
    named = do(client, "/identities/anna/split", item_ids=[third], identity_id="dora")
    assert client.get("/identities/anna").status_code == 404
    to_bert = do(client, "/identities/dora/split", item_ids=[third], identity_id="bert")
    assert owners(client, [third]) == ["bert"]
    assert undo(client, named).status_code == 409  # dora's item has gone on to bert
    for operation_id in (to_bert, named, own):
        assert undo(client, operation_id).status_code == 200
    assert state_of(client) == before


def test_a_split_of_items_of_somebody_else_changes_nothing(client: httpx.Client, people: People) -> None:
    before = state_of(client)
    items = [people["anna"][0], people["bert"][0]]
    answer = client.post("/identities/anna/split", json={"item_ids": items})
    assert (answer.status_code, answer.json()["code"]) == (409, "item_elsewhere")
    assert people["bert"][0] in answer.json()["detail"]
    answer = client.post("/identities/anna/split", json={"item_ids": [people["anna"][0], "nothing"]})
    assert answer.status_code == 404
    answer = client.post("/identities/anna/merge", json={"source_ids": ["bert", "nobody"]})
    assert (answer.status_code, "nobody" in answer.json()["detail"]) == (404, True)
    assert state_of(client) == before


def test_an_item_is_corrected_and_only_whose_it_is_can_be_undone(
    client: httpx.Client, people: People
) -> None:
    before = state_of(client)
    item_id = people["anna"][0]
    path = f"/gallery/{item_id}"
    seen = {"camera_id": "door", "captured_at": "2026-02-03T04:05:06Z", "track_id": "t"}
    answer = client.patch(path, json=seen).json()
    assert {field: answer[field] for field in seen} == seen
    assert (answer["operation_id"], answer["identity_id"]) == (None, "anna")
    assert search(client, crop(1), camera_id="door", track_id="t")["num_searched"] == 1
    answer = client.patch(path, json={"camera_id": None, "identity_id": "bert"}).json()
    assert (answer["identity_id"], answer["camera_id"], answer["track_id"]) == ("bert", None, "t")
    assert search(client, crop(1), identity_id="bert")["num_searched"] == 4
    assert undo(client, answer["operation_id"]).status_code == 200
    assert state_of(client) == before
    alone = client.patch(path, json={"identity_id": None}).json()
    assert alone["identity_id"] not in before["identities"]
    assert client.patch(path, json={"identity_id": alone["identity_id"]}).json()["operation_id"] is None
    assert undo(client, alone["operation_id"]).status_code == 200
    assert state_of(client) == before


def test_an_undo_that_later_changes_stand_in_the_way_of_says_so_and_changes_nothing(
    client: httpx.Client, people: People
) -> None:
    merged = do(client, "/identities/anna/merge", source_ids=["bert"])
    enroll(client, crop(9), identity_id="bert")
    before = state_of(client)
    answer = undo(client, merged)
    assert (answer.status_code, answer.json()["code"]) == (409, "cannot_undo")
    assert "'bert'" in answer.json()["detail"]
    split = do(client, "/identities/anna/split", item_ids=people["bert"][:1], identity_id="cleo")
    answer = undo(client, merged)
    assert (answer.status_code, state_of(client) != before) == (409, True)
    relabelled = client.patch(f"/gallery/{people['bert'][0]}", json={"identity_id": "dora"}).json()
    answer = undo(client, split)
    assert (answer.status_code, people["bert"][0] in answer.json()["detail"]) == (409, True)
    assert undo(client, relabelled["operation_id"]).status_code == 200
    assert undo(client, split).status_code == 200
    assert state_of(client) == before


def test_items_deleted_since_and_words_said_since_stay_so_when_a_merge_is_undone(
    client: httpx.Client, people: People
) -> None:
    client.patch("/identities/bert", json={"name": "Bert"})
    merged = do(client, "/identities/anna/merge", source_ids=["bert"])
    client.delete(f"/gallery/{people['bert'][0]}")
    client.patch("/identities/anna", json={"notes": "said since"})
    (new,) = enroll(client, crop(1, 9), identity_id="anna")
    assert undo(client, merged).status_code == 200
    state = state_of(client)
    assert state["identities"]["anna"]["notes"] == "said since"
    assert (state["identities"]["bert"]["name"], state["identities"]["bert"]["num_items"]) == ("Bert", 2)
    assert state["items"][new["id"]] == "anna"


def test_a_rejected_item_leaves_and_its_crop_never_finds_that_identity_again(
    client: httpx.Client, people: People
) -> None:
    before = state_of(client)
    gone, elsewhere = people["anna"][0], people["bert"][0]
    rejected = do(client, "/identities/anna/reject", item_ids=[gone, elsewhere])
    alone, still = owners(client, [gone, elsewhere])
    assert alone not in before["identities"]
    assert still == "bert"
    for query in (crop(1, 0), crop(2, 0)):
        assert "anna" not in [match["identity_id"] for match in search(client, query)["matches"]]
        by_item = search(client, query, group_by="item", top_k=100)["matches"]
        assert len(by_item) == 7
    assert "anna" in [match["identity_id"] for match in search(client, crop(1, 1))["matches"]]
    assert do(client, "/identities/anna/reject", item_ids=[gone])
    assert owners(client, [gone]) == [alone]
    back = client.patch(f"/gallery/{gone}", json={"identity_id": "anna"}).json()  # a later word counts
    assert "anna" in [match["identity_id"] for match in search(client, crop(1, 0))["matches"]]
    assert undo(client, back["operation_id"]).status_code == 200
    assert "anna" not in [match["identity_id"] for match in search(client, crop(1, 0))["matches"]]
    assert undo(client, rejected).status_code == 200
    assert state_of(client) == before
    assert search(client, crop(2, 0), identity_id="anna")["num_searched"] == 3


def test_rejected_items_of_one_track_stay_together(client: httpx.Client) -> None:
    track = {"identity_id": "anna", "camera_id": "door", "track_id": "t"}
    items = [item["id"] for item in enroll(client, crop(1), crop(2), **track)]
    items += [item["id"] for item in enroll(client, crop(3), crop(4), identity_id="anna")]
    do(client, "/identities/anna/reject", item_ids=items)
    first, second, third, fourth = owners(client, items)
    assert first == second
    assert len({first, third, fourth}) == 3


def test_what_was_rejected_for_a_merged_identity_is_rejected_for_the_whole(
    client: httpx.Client, people: People
) -> None:
    do(client, "/identities/bert/reject", item_ids=[people["cleo"][0], people["anna"][0]])
    merged = do(client, "/identities/anna/merge", source_ids=["bert"])
    assert "anna" not in [m["identity_id"] for m in search(client, crop(3, 0))["matches"]]
    assert "anna" in [m["identity_id"] for m in search(client, crop(1, 0))["matches"]]
    assert undo(client, merged).status_code == 200
    assert "anna" in [m["identity_id"] for m in search(client, crop(3, 0))["matches"]]
    assert "bert" not in [m["identity_id"] for m in search(client, crop(3, 0))["matches"]]
    assert "bert" not in [m["identity_id"] for m in search(client, crop(1, 0))["matches"]]


def test_every_server_finds_the_identity_of_now_after_each_correction(
    client: httpx.Client, people: People, either_settings: Settings
) -> None:
    item_id = people["anna"][0]
    with serve(either_settings) as other:
        servers = itertools.cycle((client, other))

        def found() -> set[str]:
            answers = [search(server, crop(1, 0), group_by="item") for server in (client, other)]
            owner = [
                m["identity_id"] for a in answers for m in a["matches"] if m["items"][0]["id"] == item_id
            ]
            assert len(owner) == len(answers)
            return set(owner)

        split = do(next(servers), "/identities/anna/split", item_ids=[item_id], identity_id="dora")
        assert found() == {"dora"}
        relabelled = next(servers).patch(f"/gallery/{item_id}", json={"identity_id": "bert"}).json()
        assert found() == {"bert"}
        assert undo(next(servers), relabelled["operation_id"]).status_code == 200
        assert found() == {"dora"}
        assert undo(next(servers), split).status_code == 200
        assert found() == {"anna"}


def test_operations_are_listed_newest_first_in_pages(client: httpx.Client, people: People) -> None:
    ids = [do(client, "/identities/anna/split", item_ids=[item_id]) for item_id in people["anna"]]
    ids.append(do(client, "/identities/bert/merge", source_ids=["cleo"]))
    assert undo(client, ids[3]).status_code == 200
    pages = [client.get("/operations", params={"limit": 3}).json()]
    while pages[-1]["next_cursor"]:
        fields = {"limit": 3, "cursor": pages[-1]["next_cursor"]}
        pages.append(client.get("/operations", params=fields).json())
    listed = [one for page in pages for one in page["operations"]]
    assert [one["operation_id"] for one in listed] == sorted(ids, reverse=True)
    kinds = {one["operation_id"]: (one["kind"], one["undone_at"] is not None) for one in listed}
    assert kinds == dict(
        zip(ids, [("split", False), ("split", False), ("split", False), ("merge", True)], strict=True)
    )


def test_an_identity_whose_items_are_all_deleted_since_does_not_come_back(
    client: httpx.Client, people: People
) -> None:
    merged = do(client, "/identities/anna/merge", source_ids=["bert", "cleo"])
    for item_id in people["bert"]:
        client.delete(f"/gallery/{item_id}")
    assert undo(client, merged).status_code == 200
    assert list(state_of(client)["identities"]) == ["anna", "cleo"]


def test_an_identity_that_an_operation_made_stays_when_it_was_described_since(
    client: httpx.Client, people: People
) -> None:
    split = do(client, "/identities/anna/split", item_ids=people["anna"][:1], identity_id="dora")
    client.patch("/identities/dora", json={"name": "Dora"})
    assert undo(client, split).status_code == 200
    assert owners(client, people["anna"]) == ["anna"] * 3
    assert client.get("/identities/dora").json()["num_items"] == 0


def test_of_two_merges_of_the_same_identities_at_once_one_is_done(
    client: httpx.Client, people: People
) -> None:
    def merge(pair: tuple[str, str]) -> int:
        answer = client.post(f"/identities/{pair[0]}/merge", json={"source_ids": [pair[1]]})
        return answer.status_code

    with ThreadPoolExecutor(4) as threads:
        statuses = list(threads.map(merge, [("anna", "bert"), ("bert", "anna")] * 2))
    assert sorted(statuses) == [200, 404, 404, 404]
    state = state_of(client)
    assert sorted(one["num_items"] for one in state["identities"].values()) == [3, 6]
    assert len(state["items"]) == sum(map(len, people.values()))


def test_items_are_corrected_and_deleted_at_once(client: httpx.Client, people: People) -> None:
    def correct(item_id: str) -> int:
        return client.patch(f"/gallery/{item_id}", json={"identity_id": "dora"}).status_code

    def delete(item_id: str) -> int:
        return client.delete(f"/gallery/{item_id}").status_code

    item_ids = [item_id for items in people.values() for item_id in items]
    with ThreadPoolExecutor(8) as threads:
        corrected = [threads.submit(correct, item_id) for item_id in item_ids]
        deleted = [threads.submit(delete, item_id) for item_id in item_ids]
        assert {one.result() for one in corrected} <= {200, 404}
        assert {one.result() for one in deleted} == {204}
    assert state_of(client) == {"identities": {}, "items": {}}
    assert search(client, crop(1))["num_searched"] == 0


def test_merges_enrolments_and_undos_at_once_lose_nothing(client: httpx.Client) -> None:
    for seed in range(6):
        enroll(client, crop(seed), identity_id=f"p{seed}")
    enrolled = 0

    def work(number: int) -> list[int]:
        source, target = f"p{number % 6}", f"p{(number + 1) % 6}"
        if number % 3 == 0:
            return [
                client.post(
                    "/gallery", files=[("images", crop(50 + number))], data={"identity_id": source}
                ).status_code
            ]
        answer = client.post(f"/identities/{target}/merge", json={"source_ids": [source]})
        if answer.status_code != 200 or number % 2:
            return [answer.status_code]
        return [answer.status_code, undo(client, answer.json()["operation_id"]).status_code]

    with ThreadPoolExecutor(6) as threads:
        statuses = [status for answer in threads.map(work, range(36)) for status in answer]
    assert set(statuses) <= {200, 201, 404, 409}
    enrolled = statuses.count(201)
    assert enrolled == 12
    state = state_of(client)
    assert len(state["items"]) == 6 + enrolled
    assert set(state["items"].values()) == set(state["identities"])
    assert sum(one["num_items"] for one in state["identities"].values()) == 6 + enrolled
    found = search(client, crop(0), group_by="item", top_k=100)["matches"]
    assert {match["items"][0]["id"]: match["identity_id"] for match in found} == state["items"]
