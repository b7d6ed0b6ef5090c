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
