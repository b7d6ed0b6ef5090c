"""F7: names of an older gallery are renamed at a start, or reported if two of them are one."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import Engine, func, select, update
from structlog.testing import capture_logs

from backed_up import back_up, findings
from command_line import reid
from erased import erase, opened
from live_server import crop, enroll, images, search, serve
from service.errors import BadSettings
from service.people.corrections import merge
from service.people.receipts import Receipt
from service.people.retention import erase_expired
from service.settings import Settings, read_settings
from service.store.changes import transaction
from service.store.database import make_sessions
from service.store.store import Store
from service.store.tables import Attribute, Change, Identity, Item, KeptAnswer, now
from service.upkeep.restore import restore
from service.upkeep.spellings import find_collisions, unify_names

JOSE, JOSE_NFD = "Jos\u00e9", "Jose\u0301"
DOOR, DOOR_NFD = "T\u00fcr", "Tu\u0308r"
TRACK, TRACK_NFD = "\u1e69", "s\u0323\u0307"


def path_of(identity_id: str) -> str:
    return f"/identities/{quote(identity_id, safe='')}"


def age(settings: Settings, ids: dict[str, str], **columns: dict[str, str]) -> None:
    """Give identities, cameras and tracks the names that an older version would have stored."""
    with opened(settings) as sessions, transaction(sessions) as change:
        for name, older in ids.items():
            change.session.execute(update(Identity).where(Identity.id == name).values(id=older))
        for column, names in columns.items():
            for name, older in names.items():
                is_named = getattr(Item, column) == name
                for slot in change.session.scalars(select(Item.slot).where(is_named)).all():
                    change.note("updated", slot)
                change.session.execute(update(Item).where(is_named).values({column: older}))


def add(store: Store, identity_id: str, num_items: int = 0, **fields: Any) -> None:
    """Add an identity with items as an older version would have stored them."""
    attributes = fields.pop("attributes", {})
    names = {name: fields.pop(name, None) for name in ("camera_id", "track_id", "captured_at")}
    with store.change() as change:
        identity = Identity(id=identity_id, created_at=now(), **fields)
        identity.attributes = [Attribute(name=name, value=value) for name, value in attributes.items()]
        change.session.add(identity)
        for _ in range(num_items):
            slot = change.note("added")
            made = {
                "id": f"{slot:032x}",
                "created_at": now(),
                "sha256": f"{slot:064x}",
                "width": 1,
                "height": 1,
            }
            change.session.add(Item(slot=slot, identity=identity, content_type="image/png", **made, **names))


@pytest.fixture
def store(engine: Engine, tmp_path: Path) -> Store:
    """An empty gallery on either database, without a server."""
    return Store(Settings(data_dir=tmp_path), make_sessions(engine))


def ids(store: Store) -> set[str]:
    with store.read() as session:
        return set(session.scalars(select(Identity.id)))


def test_f07_names_of_an_older_gallery_are_renamed(either_settings: Settings) -> None:
    settings = either_settings
    with serve(settings) as client:
        (item,) = enroll(client, crop(1), identity_id="a", camera_id="b", track_id="c")
        enroll(client, crop(2), identity_id="plain", camera_id="plain")
        age(settings, {"a": JOSE_NFD}, camera_id={"b": DOOR_NFD}, track_id={"c": TRACK_NFD})
        assert search(client, crop(1), camera_id=DOOR)["num_searched"] == 1  # already before the upgrade
        assert client.get(path_of(JOSE)).json()["id"] == JOSE_NFD
        assert enroll(client, crop(3), identity_id=JOSE)[0]["identity_id"] == JOSE_NFD
    for _ in range(2):
        with serve(settings) as client:
            shown = client.get(f"/gallery/{item['id']}").json()
            assert (shown["identity_id"], shown["camera_id"], shown["track_id"]) == (JOSE, DOOR, TRACK)
            for form in (JOSE, JOSE_NFD):
                assert client.get(path_of(form)).json()["num_items"] == 2
            for camera_id in (DOOR, DOOR_NFD):
                assert search(client, crop(1), camera_id=camera_id)["num_searched"] == 1
            ranked = client.post("/search", files=images(crop(1)), data={"group_by": "camera"}).json()
            assert ranked["num_searched"] == 3
            assert findings(settings) == []
    with opened(settings) as sessions, sessions.read() as session:
        rebuilt = select(func.count()).where(Change.kind == "rebuilt")
        assert session.scalar(rebuilt) == 1


def test_f07_descriptions_are_renamed_and_ascii_is_left_alone(store: Store) -> None:
    add(store, "plain", 1, name="plain", camera_id="plain", attributes={"hat": "red"})
    unify_names(store)
    with store.read() as session:
        before = session.scalar(select(func.max(Change.sequence)))
    attributes = {"gro\u0308\u00dfe": "mu\u0308", "hat": "red\u0301", "hu\u0308t": "x", "h\u00fct": "x"}
    add(store, "one", name=JOSE_NFD, notes=JOSE_NFD, attributes=attributes)
    with capture_logs() as logs:
        unify_names(store)
        unify_names(store)
    assert [line["event"] for line in logs] == ["names are stored in one Unicode form now"]
    with store.read() as session:
        one = session.scalars(select(Identity).where(Identity.id == "one")).one()
        assert (one.name, one.notes) == (JOSE, JOSE_NFD)
        found = session.execute(
            select(Attribute.name, Attribute.value).where(Attribute.identity_key == one.key)
        )
        assert dict(found.all()) == {
            "gr\u00f6\u00dfe": "m\u00fc",
            "hat": "red\u0301",
            "h\u00fct": "x",
        }
        assert session.scalar(select(func.max(Change.sequence))) == before


def test_f07_names_that_would_be_one_are_left_alone_and_reported(store: Store) -> None:
    add(store, JOSE, 1, camera_id=DOOR)
    add(store, JOSE_NFD, 1, camera_id=DOOR_NFD, attributes={"h\u00fct": "a", "hu\u0308t": "b"})
    add(
        store, "\u212b", 1, track_id="\u212b"
    )  # ANGSTROM SIGN and A with a ring: the composed form is neither
    add(store, "A\u030a", 1, track_id="A\u030a")
    add(store, "\u0958" * 200)  # has 400 code points in its composed form
    before = ids(store)
    for _ in range(2):
        with capture_logs() as logs:
            unify_names(store)
        said = [line["names"] for line in logs]
        assert ids(store) == before
        assert len(said) == 6, said
        advice = 'if they are one person, POST /identities/Jos%C3%A9/merge {"source_ids": ["Jose\\u0301"]}'
        assert any('identity "Jos\\u00e9" and "Jose\\u0301"' in line and advice in line for line in said)
        assert any(line.startswith('camera "T\\u00fcr" and "Tu\\u0308r"') for line in said)
        assert any(line.startswith('track "A\\u030a" and "\\u212b"') for line in said)
        assert any("PATCH /identities/Jose%CC%81 with the attributes" in line for line in said)
        assert any("more than 255" in line for line in said)
    with store.read() as session:
        assert len(find_collisions(session)) == 6
        assert set(session.scalars(select(Item.camera_id))) == {DOOR, DOOR_NFD, None}


def test_f07_two_processes_that_start_at_once_rename_once(store: Store) -> None:
    for number in range(50):
        add(store, f"{JOSE_NFD} {number}", 1, camera_id=f"{DOOR_NFD} {number}")
    others = [Store(store.settings, store.sessions) for _ in range(4)]
    threads = [Thread(target=unify_names, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ids(store) == {f"{JOSE} {number}" for number in range(50)}
    with store.read() as session:
        assert session.scalar(select(func.count()).where(Change.kind == "rebuilt")) == 1


def test_f07_one_of_two_spellings_is_erased_alone_and_both_after_a_merge(either_settings: Settings) -> None:
    with serve(either_settings) as client:
        for seed, name in enumerate(("a", "b", "c", "d")):
            enroll(client, crop(seed), identity_id=name)
    age(either_settings, {"a": JOSE, "b": JOSE_NFD, "c": DOOR, "d": DOOR_NFD})
    with serve(either_settings) as client:
        assert [one.kind for one in findings(either_settings)] == ["one name in two spellings"] * 2
        for name in (JOSE, JOSE_NFD, DOOR, DOOR_NFD):
            assert client.get(path_of(name)).json()["num_items"] == 1
            assert len(client.get(f"{path_of(name)}/items").json()["items"]) == 1
            assert len(client.get("/gallery", params={"identity_id": name}).json()["items"]) == 2
        receipt = erase(client, quote(JOSE_NFD))
        assert (len(receipt["item_ids"]), receipt["erased"]["items"]) == (1, 1)
        assert receipt["identity_sha256"] == sha256(JOSE_NFD.encode()).hexdigest()
        assert client.get(path_of(JOSE_NFD)).json()["id"] == JOSE
        merged = client.post(f"{path_of(DOOR)}/merge", json={"source_ids": [DOOR_NFD]}).json()
        assert client.post(f"/operations/{merged['operation_id']}/undo").status_code == 200
        assert client.get(path_of(DOOR_NFD)).json()["id"] == DOOR_NFD
        assert client.post(f"{path_of(DOOR)}/merge", json={"source_ids": [DOOR_NFD]}).status_code == 200
        assert len(erase(client, quote(DOOR_NFD))["item_ids"]) == 2
        assert client.get(path_of(DOOR)).status_code == 404
        assert findings(either_settings) == []


def test_f07_the_check_reports_two_spellings_and_finds_no_damage(settings: Settings) -> None:
    with serve(settings) as client:
        enroll(client, crop(1), identity_id="a")
        enroll(client, crop(2), identity_id="b")
    age(settings, {"a": JOSE, "b": JOSE_NFD})
    done = reid("check", "--data-dir", settings.data_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "/merge" in done.stdout
    assert "all is well, 1 names to look at" in done.stdout


def test_f07_operations_on_older_names_can_be_undone(settings: Settings) -> None:
    with serve(settings) as client:
        enroll(client, crop(1), identity_id="boss")
        client.patch("/identities/boss", json={"name": "placeholder"})
        enroll(client, crop(2), identity_id="a")
        client.patch("/identities/a", json={"name": "b", "attributes": {"c": "d"}})
    with opened(settings) as sessions, transaction(sessions) as change:
        change.session.execute(
            update(Identity).where(Identity.id == "boss").values(id=DOOR_NFD, name=DOOR_NFD)
        )
        change.session.execute(update(Identity).where(Identity.id == "a").values(id=JOSE_NFD, name=JOSE_NFD))
        change.session.execute(update(Attribute).values(name=TRACK_NFD, value=TRACK_NFD))
    with opened(settings) as sessions:
        operation = merge(Store(settings, sessions), DOOR_NFD, [JOSE_NFD])
    with serve(settings) as client:
        assert client.get(path_of(DOOR)).json()["attributes"] == {TRACK: TRACK}
        assert client.post(f"/operations/{operation.id}/undo").status_code == 200
        back, boss = client.get(path_of(JOSE)).json(), client.get(path_of(DOOR)).json()
        assert (back["id"], back["name"], back["attributes"]) == (JOSE, JOSE, {TRACK: TRACK})
        assert (boss["id"], boss["name"], boss["attributes"]) == (DOOR, DOOR, {})
        assert (boss["num_items"], back["num_items"]) == (1, 1)


def test_f07_what_was_kept_under_the_former_spelling_is_erased(settings: Settings) -> None:
    with serve(settings) as client:
        keyed = {"Idempotency-Key": "one"}
        client.post("/gallery", files=images(crop(1)), data={"identity_id": JOSE}, headers=keyed)
        client.post("/identities", json={"id": JOSE + "2"}, headers={"Idempotency-Key": "two"})
    with opened(settings) as sessions, transaction(sessions) as change:
        for answer in change.session.scalars(select(KeptAnswer)):
            answer.body = (answer.body or b"").replace(JOSE.encode(), JOSE_NFD.encode())
            answer.body = answer.body.replace(b'"id":"', b'"id":"0')
    with serve(settings) as client:
        assert erase(client, quote(JOSE))["erased"]["kept_answers"] == 1


def test_f07_a_receipt_erases_the_former_spelling_in_an_older_backup(
    settings: Settings, tmp_path: Path, make_settings: Callable[..., Settings]
) -> None:
    with serve(settings) as client:
        for seed, name in enumerate(("a", "b", "c")):
            enroll(client, crop(seed), identity_id=name)
            client.patch(f"/identities/{name}", json={"name": name})
    age(settings, {"a": JOSE_NFD, "b": DOOR, "c": DOOR_NFD})
    back_up(settings, tmp_path / "older.tar")
    with serve(settings) as client:
        client.delete(f"/gallery/{client.get(path_of(JOSE) + '/items').json()['items'][0]['id']}")
        erased = [erase(client, quote(JOSE)), erase(client, quote(DOOR))]
    receipts = [Receipt(now(), one["identity_sha256"], one["item_ids"]) for one in erased]
    restored = make_settings(tmp_path / "restored")
    restore(restored, tmp_path / "older.tar", receipts)
    with opened(restored) as sessions, sessions.read() as session:
        assert set(session.scalars(select(Identity.id))) == {DOOR_NFD}
        assert session.scalar(select(func.count()).select_from(Item)) == 1
    with serve(restored) as client:
        assert client.get(path_of(DOOR)).json()["id"] == DOOR


def test_f07_the_retention_of_a_camera_holds_for_each_spelling(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = now().replace(year=2020)
    for name, camera_id in (("a", DOOR), ("b", DOOR_NFD), ("c", "other")):
        add(store, name, 1, camera_id=camera_id, captured_at=old)
    monkeypatch.setenv("REID_RETENTION_DAYS_BY_CAMERA", json.dumps({DOOR_NFD: 30}))
    by_camera = read_settings().retention_days_by_camera
    assert by_camera == {DOOR: 30}
    limited = store.settings.model_copy(update={"retention_days_by_camera": by_camera})
    assert erase_expired(Store(limited, store.sessions), now()) == 2
    assert ids(store) == {"c"}
    monkeypatch.setenv("REID_RETENTION_DAYS_BY_CAMERA", json.dumps({DOOR_NFD: 30, DOOR: 10}))
    with pytest.raises(BadSettings, match="two spellings"):
        read_settings()
