"""Operations tell by whom they were made, and what they did."""

from keyed import as_key, make_key
from live_server import crop, enroll, serve
from service.settings import Settings


def test_an_operation_tells_who_and_what_from_where_to_where(settings: Settings) -> None:
    with serve(settings) as client:
        (first,) = enroll(client, crop(1), identity_id="anna")
        (second,) = enroll(client, crop(2), identity_id="bert")
        keys = {name: make_key(settings, "operator", name) for name in ("maria", "jose")}
        with as_key(client, keys["maria"]) as maria, as_key(client, keys["jose"]) as jose:
            merged = maria.post("/identities/anna/merge", json={"source_ids": ["bert"]}).json()
            assert (merged["by"], merged["undone_by"]) == ("maria", None)
            assert sorted(merged["identities"]) == ["anna", "bert"]
            assert merged["items"] == [{"item_id": second["id"], "from_id": "bert", "to_id": "anna"}]
            split = jose.post(
                "/identities/anna/split", json={"item_ids": [first["id"]], "identity_id": "carl"}
            ).json()
            assert split["items"] == [{"item_id": first["id"], "from_id": "anna", "to_id": "carl"}]
            jose.post(f"/operations/{split['operation_id']}/undo")
            undone = jose.post(f"/operations/{merged['operation_id']}/undo").json()
            assert (undone["by"], undone["undone_by"], undone["num_items"]) == ("maria", "jose", 1)
            listed = maria.get("/operations").json()["operations"]
            assert [one["by"] for one in listed] == ["jose", "maria"]
            maria_sees = maria.get(f"/operations/{merged['operation_id']}").json()
            assert maria_sees | {"request_id": ""} == undone | {"request_id": ""}


def test_the_operations_of_one_identity_are_listed(settings: Settings) -> None:
    with serve(settings) as client:
        enroll(client, crop(1), crop(2), identity_id="jos\u00e9")
        enroll(client, crop(3), identity_id="bert")
        enroll(client, crop(4), identity_id="carl")
        merged = client.post("/identities/carl/merge", json={"source_ids": ["bert"]}).json()
        item, _ = client.get("/identities/jos\u00e9/items").json()["items"]
        order = {"item_ids": [item["id"]]}
        rejected = client.post("/identities/jos\u00e9/reject", json=order).json()

        def operations_of(name: str) -> list[str]:
            listed = client.get("/operations", params={"identity_id": name}).json()["operations"]
            return [one["operation_id"] for one in listed]

        assert operations_of("carl") == [merged["operation_id"]]
        assert operations_of("nobody") == operations_of("bert") == []
        client.post(f"/operations/{merged['operation_id']}/undo")
        assert operations_of("bert") == [merged["operation_id"]]
        assert operations_of("jose\u0301") == [rejected["operation_id"]]  # in another Unicode form
        moved_to = client.get(f"/gallery/{item['id']}").json()["identity_id"]
        assert operations_of(moved_to) == [rejected["operation_id"]]
