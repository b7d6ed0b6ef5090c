"""F7: a name is one name in whichever Unicode form it comes in. F6: a name that is not UTF-8 is refused."""

import json
from pathlib import Path
from unicodedata import normalize
from urllib.parse import quote

import httpx
import pytest

from archives import tar_of, zip_of
from command_line import put, run
from erased import erase
from live_server import crop, enroll, images, search, wait_for_job

JOSE = "Jos\u00e9"
JOSE_NFD = "Jose\u0301"
DOOR, DOOR_NFD = "T\u00fcr 1", "Tu\u0308r 1"
OHM = "\u2126"  # OHM SIGN, whose composed form is GREEK CAPITAL LETTER OMEGA
NAMES = (JOSE, DOOR, "\u1e69\u0323", "\u1112\u1161\u11ab", OHM, "A\u030angstr\u00f6m", "\u1f82")
"""Some letters with several marks, Hangul, and letters that have an old and a new code point."""


def spelled(name: str) -> set[str]:
    """Return a name as it stands, composed, and decomposed."""
    return {name, normalize("NFC", name), normalize("NFD", name)}


def path_of(identity_id: str) -> str:
    return f"/identities/{quote(identity_id, safe='')}"


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_f07_every_spelling_of_a_name_enrols_one_identity(shared_client: httpx.Client, number: int) -> None:
    name = f"{number} {NAMES[number]}"
    made = [
        enroll(
            shared_client,
            crop(100 * number + place),
            identity_id=form,
            camera_id=form,
            track_id=form,
        )[0]
        for place, form in enumerate(sorted(spelled(name)))
    ]
    assert {item[field] for item in made for field in ("identity_id", "camera_id", "track_id")} == {
        normalize("NFC", name)
    }
    total = search(shared_client, crop(100 * number))["num_searched"]
    for form in spelled(name):
        assert shared_client.get(path_of(form)).json()["num_items"] == len(made)
        for field in ("identity_id", "camera_id", "track_id"):
            shown = shared_client.get("/gallery", params={field: form}).json()["items"]
            assert [item["id"] for item in shown] == [item["id"] for item in made]
            found = search(shared_client, crop(100 * number), **{field: form})
            assert found["num_searched"] == len(made)
            left = search(shared_client, crop(100 * number), **{f"exclude_{field}": form})
            assert left["num_searched"] == total - len(made)


def test_f07_every_way_in_stores_one_form(shared_client: httpx.Client) -> None:
    metadata = [{"identity_id": "Ann\u00e9", "camera_id": DOOR_NFD}, {"identity_id": "Anne\u0301"}]
    form = {"metadata": json.dumps(metadata)}
    items = shared_client.post("/gallery", files=images(crop(1), crop(2)), data=form).json()["items"]
    assert [item["identity_id"] for item in items] == ["Ann\u00e9"] * 2
    assert items[0]["camera_id"] == DOOR

    new = {"id": "Zoe\u0308", "name": "Zoe\u0308 B", "attributes": {"gro\u0308\u00dfe": "mu\u0308ller"}}
    made = shared_client.post("/identities", json=new)
    assert made.headers["location"] == path_of("Zo\u00eb")
    body = made.json()
    assert (body["id"], body["name"]) == ("Zo\u00eb", "Zo\u00eb B")
    assert body["attributes"] == {"gr\u00f6\u00dfe": "m\u00fcller"}
    assert shared_client.post("/identities", json={"id": "Zo\u00eb"}).status_code == 409
    assert shared_client.post("/identities", json=new).status_code == 409
    for attribute in ("gr\u00f6\u00dfe=m\u00fcller", "gro\u0308\u00dfe=mu\u0308ller"):
        for among in ({"attribute": attribute}, {"name": "zoe\u0308"}, {"name": "ZO\u00cb"}):
            listed = shared_client.get("/identities", params=among).json()["identities"]
            assert [one["id"] for one in listed] == ["Zo\u00eb"]
    two = {"attributes": {"h\u00fct": "a", "hu\u0308t": "b"}}
    refused = shared_client.patch(path_of("Zo\u00eb"), json=two)
    assert (refused.status_code, "two spellings" in refused.text) == (422, True)
    equals = {"attributes": {"a=\u0338": "b"}}  # composed, this is one letter and no equals sign
    assert shared_client.patch(path_of("Zo\u00eb"), json=equals).json()["attributes"] == {"a\u2260": "b"}

    moved = shared_client.patch(f"/gallery/{items[1]['id']}", json={"identity_id": "Zoe\u0308"}).json()
    assert moved["identity_id"] == "Zo\u00eb"
    order = {"item_ids": [items[1]["id"]], "identity_id": "Anne\u0301"}
    assert shared_client.post(f"{path_of('Zoe' + chr(0x308))}/split", json=order).status_code == 200
    assert shared_client.get(path_of("Ann\u00e9")).json()["num_items"] == 2


def test_f07_every_lookup_takes_either_form(shared_client: httpx.Client) -> None:
    enroll(
        shared_client, crop(20), identity_id="Ren\u00e9", camera_id="c", captured_at="2026-01-01T00:00:00Z"
    )
    enroll(shared_client, crop(21), identity_id="other")
    decomposed = path_of("Rene\u0301")
    assert len(shared_client.get(f"{decomposed}/items").json()["items"]) == 1
    assert shared_client.get(f"{decomposed}/timeline").json()["identity_id"] == "Ren\u00e9"
    verified = shared_client.post("/verify", files=images(crop(20)), data={"identity_id": "Rene\u0301"})
    assert verified.json()["score"] > 0.99
    asked = {"of": "Rene\u0301", "min_score": "-1"}
    pairs = shared_client.get("/identities/suggestions", params=asked).json()["suggestions"]
    assert all(any(one["identity_id"] == "Ren\u00e9" for one in pair["identities"]) for pair in pairs)
    near = {
        "exclude_same_camera_s": 1,
        "query_camera_id": "c",
        "query_captured_at": "2026-01-01T00:00:00Z",
        "identity_id": "Rene\u0301",
    }
    assert search(shared_client, crop(20), **near)["num_searched"] == 0
    refused = shared_client.post(f"{path_of('Ren' + chr(0xE9))}/merge", json={"source_ids": ["Rene\u0301"]})
    assert (refused.status_code, "into itself" in refused.text) == (422, True)
    twice = {"source_ids": ["Rene\u0301", "Ren\u00e9"]}
    assert shared_client.post("/identities/other/merge", json=twice).status_code == 200
    assert shared_client.get("/identities/other").json()["num_items"] == 2


def test_f07_the_limit_holds_for_the_composed_name(shared_client: httpx.Client) -> None:
    long = "\u00e9" * 255
    (item,) = enroll(shared_client, crop(30), identity_id=normalize("NFD", long))
    assert item["identity_id"] == long
    assert shared_client.get("/gallery", params={"identity_id": normalize("NFD", long)}).json()["items"]
    for name in ("\u00e9" * 256, "e\u0301" * 256, "x" * 256, "\u0315\u0300" * 50_000):
        data = {"identity_id": name}
        assert shared_client.post("/gallery", files=images(crop(31)), data=data).status_code == 422
        assert shared_client.post("/search", files=images(crop(31)), data=data).status_code == 422


def test_f07_the_keys_of_one_request_are_not_two_people(shared_client: httpx.Client) -> None:
    members = {f"{JOSE_NFD}/1.jpg": crop(40), f"{JOSE}/2.jpg": crop(41)}
    answer = shared_client.post(
        "/gallery", files={"archive": ("a.zip", zip_of(members))}, data={"layout": "folders"}
    )
    job = wait_for_job(shared_client, answer.headers["location"])
    assert job["num_enrolled"] == 2, job
    rows = f"path,identity_id,camera_id\n1.jpg,{JOSE_NFD},{DOOR_NFD}\n2.jpg,{JOSE},{DOOR}\n"
    files = {"gallery.csv": rows.encode(), "1.jpg": crop(42), "2.jpg": crop(43)}
    answer = shared_client.post("/gallery", files={"archive": ("a.tar", tar_of(files))})
    wait_for_job(shared_client, answer.headers["location"])
    asynchronous = {"Prefer": "respond-async"}
    for seed, name in ((44, JOSE), (45, JOSE_NFD)):
        answer = shared_client.post(
            "/gallery", files=images(crop(seed)), data={"identity_id": name}, headers=asynchronous
        )
        wait_for_job(shared_client, answer.headers["location"])
    assert shared_client.get(path_of(JOSE)).json()["num_items"] == 6
    both = {"identity_id": JOSE, "camera_id": DOOR_NFD}
    assert len(shared_client.get("/gallery", params=both).json()["items"]) == 2
    receipt = erase(shared_client, quote(JOSE_NFD))
    assert len(receipt["item_ids"]) == 6
    assert shared_client.get(path_of(JOSE)).status_code == 404


def test_f07_a_folder_of_a_mac_is_enrolled_and_exported(shared_client: httpx.Client, tmp_path: Path) -> None:
    put(tmp_path / "people" / "Rau\u0301l" / "1.jpg", crop(50))
    put(tmp_path / "people" / "Ra\u00fal" / "2.jpg", crop(51))
    assert run(shared_client, "enroll", tmp_path / "people", "--layout", "folders").exit_code == 0
    assert shared_client.get(path_of("Ra\u00fal")).json()["num_items"] == 2
    done = run(shared_client, "export", "--out", tmp_path / "out", "--identity-id", "Rau\u0301l")
    assert done.exit_code == 0, done.output
    rows = (tmp_path / "out" / "gallery.csv").read_text().splitlines()
    assert [row.split(",")[1].strip('"') for row in rows[1:]] == ["Ra\u00fal"] * 2


def test_f06_a_name_that_is_not_utf_8_is_refused_and_finds_nobody(shared_client: httpx.Client) -> None:
    enroll(shared_client, crop(60), identity_id="M\ufffdller")
    assert shared_client.get("/identities/M%EF%BF%BDller").status_code == 200
    for path in (
        "/identities/M%FCller",
        "/identities/M%F6ller",
        "/identities/%ED%B3%BC",
        "/identities/a%2Fb%FC",
    ):
        for method in ("GET", "DELETE"):
            assert shared_client.request(method, path).status_code == 404
    for name in ('"M\\udcfcller"', '"a\\ud800"', '"\\ud83d \\ude00"'):
        for metadata in (f'[{{"identity_id": {name}}}]', f'[{{"camera_id": {name}}}]'):
            refused = shared_client.post("/gallery", files=images(crop(61)), data={"metadata": metadata})
            assert (refused.status_code, "not UTF-8" in refused.text) == (422, True), refused.text
        refused = shared_client.post(
            "/identities", content=f'{{"id": {name}}}', headers={"Content-Type": "application/json"}
        )
        assert refused.status_code in (400, 422), refused.text
    whole = '[{"identity_id": "\\ud83d\\ude00"}]'
    assert shared_client.post("/gallery", files=images(crop(62)), data={"metadata": whole}).status_code == 201
