"""Erasing people: what goes with them, what stays of the others, and what the receipt says."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import httpx
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from erased import describe, erase, opened
from live_server import crop, enroll, search
from service.people.receipts import Receipt, apply_receipts
from service.settings import Settings
from service.store.changes import transaction
from service.store.store import Store
from service.store.tables import (
    FormerIdentity,
    Identity,
    Item,
    Job,
    JobFile,
    KeptAnswer,
    Move,
    Operation,
    Rejection,
    new_id,
    now,
)
from service.upkeep.check import check


def test_the_receipt_says_what_was_erased_and_names_nobody(client: httpx.Client) -> None:
    items = enroll(client, crop(1), crop(2), identity_id="a/b ü")
    (other,) = enroll(client, crop(2), identity_id="other")
    answer = client.delete("/identities/a%2Fb%20ü?mode=erase")
    assert answer.status_code == 200
    receipt = answer.json()
    assert receipt["identity_sha256"] == hashlib.sha256("a/b ü".encode()).hexdigest()
    assert receipt["item_ids"] == [item["id"] for item in items]
    assert receipt["reason"] == "requested"
    assert receipt["out_of_reach"]
    erased = receipt["erased"]
    assert (erased["items"], erased["crops"], erased["crops_kept_for_others"]) == (2, 1, 1)
    assert client.get(other["image_url"]).content == crop(2)
    assert client.get(items[0]["image_url"]).status_code == 404
    assert "a/b" not in answer.text
    again = client.delete("/identities/a%2Fb%20ü?mode=erase")
    assert (again.status_code, again.json()["code"]) == (404, "identity_not_found")
    assert client.get("/erasures").json()["erasures"] == [
        {name: value for name, value in receipt.items() if name != "request_id"}
    ]


def test_receipts_come_in_pages_in_their_order(client: httpx.Client) -> None:
    made = []
    for seed in range(3):
        enroll(client, crop(seed), identity_id=f"p{seed}")
        made.append(erase(client, f"p{seed}")["sequence"])
    first = client.get("/erasures", params={"limit": 2}).json()
    second = client.get("/erasures", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [e["sequence"] for page in (first, second) for e in page["erasures"]] == made == sorted(made)
    assert second["next_cursor"] is None
    for wrong in ({"limit": 0}, {"limit": 1001}, {"cursor": "x"}):
        assert client.get("/erasures", params=wrong).status_code == 422


def test_a_plain_deletion_takes_an_identity_and_its_items(
    client: httpx.Client, either_settings: Settings
) -> None:
    enroll(client, crop(1), crop(2), identity_id="anna")
    enroll(client, crop(3), identity_id="bert")
    describe(either_settings, "anna")
    assert client.delete("/identities/anna").status_code == 204
    assert client.delete("/identities/anna").status_code == 404
    assert client.delete("/identities/bert?mode=burn").status_code == 422
    assert search(client, crop(1))["num_searched"] == 1
    assert client.get("/erasures").json()["erasures"] == []
    assert len([path for path in either_settings.crops_dir.rglob("*") if path.is_file()]) == 1
    with opened(either_settings) as sessions, sessions.read() as session:
        assert session.scalars(select(Identity.id)).all() == ["bert"]


def answer_with(body: bytes, **headers: str) -> KeptAnswer:
    moment = now()
    return KeptAnswer(
        key=new_id(),
        fingerprint="f",
        status=201,
        headers=headers,
        body=body,
        created_at=moment,
        alive_at=moment,
    )


def add_mentions(session: Session, item_id: str) -> None:
    """Let much mention anna (who was once agnes), and as much only bert."""
    keys = {i.id: i.key for i in session.scalars(select(Identity))}
    slots = {i.identity.id: i.slot for i in session.scalars(select(Item))}
    moment = now()
    gone = 10_000  # agnes was merged into agatha, and she into anna
    for name in ("agnes into agatha", "agatha into anna", "bert", "carl"):
        session.add(Operation(id=name, kind="merge", created_at=moment))
    session.add_all(
        Rejection(identity_key=keys[who], slot=slots[whom], created_at=moment)
        for who, whom in (("anna", "bert"), ("bert", "anna"), ("bert", "carl"))
    )
    session.add(Job(id="job", kind="import", state="running", done=0, total=3, created_at=moment))
    session.flush()
    session.add_all(
        FormerIdentity(operation_id=operation, identity_key=key, before={"id": name}, after=None)
        for operation, key, name in (
            ("agnes into agatha", gone, "agnes"),
            ("agnes into agatha", gone + 1, "agatha"),
            ("agatha into anna", gone + 1, "agatha"),
            ("agatha into anna", keys["anna"], "anna"),
            ("bert", keys["bert"], "bert"),
        )
    )
    session.add(Move(operation_id="carl", slot=slots["carl"], from_key=keys["bert"], to_key=keys["carl"]))
    session.add_all(
        JobFile(job_id="job", position=n, name=f"{n}.jpg", sha256=f"{n:064}", label={"identity_id": name})
        for n, name in enumerate(("anna", "agnes", "bert", None))
    )
    session.add_all(
        [
            answer_with(b'{"items": [{"id": "%s"}]}' % item_id.encode()),
            answer_with(b'{"identity_id":"agnes"}'),
            answer_with(b"{}", location="/identities/anna"),
            answer_with(b'{"identity_id":"annabel"}', location="/identities/joanna"),
            answer_with(b'{"id": "%s"}' % new_id().encode()),
        ]
    )


def test_everything_that_mentions_the_erased_goes_and_nothing_else(
    client: httpx.Client, either_settings: Settings
) -> None:
    (item,) = enroll(client, crop(1), identity_id="anna")
    enroll(client, crop(2), identity_id="bert")
    enroll(client, crop(3), identity_id="carl")
    with opened(either_settings) as sessions, transaction(sessions) as change:
        add_mentions(change.session, item["id"])
        change.session.execute(
            update(Item).where(Item.identity.has(id="bert")).values(duplicate_of=item["id"])
        )
    erased = erase(client, "anna")["erased"]
    assert (erased["operations"], erased["rejections"], erased["kept_answers"], erased["job_files"]) == (
        *(2, 2, 3, 2),
    )
    with opened(either_settings) as sessions, sessions.read() as session:
        assert session.scalars(select(Operation.id).order_by(Operation.id)).all() == ["bert", "carl"]
        in_order = select(JobFile).order_by(JobFile.position)
        assert [row.label["identity_id"] for row in session.scalars(in_order)] == ["bert", None]
        bodies = session.scalars(select(KeptAnswer.body)).all()
        assert len(bodies) == 2
        assert session.scalar(select(func.count()).select_from(Rejection)) == 1
        assert session.scalars(select(Item.duplicate_of)).all() == [None, None]
        assert session.scalars(select(Identity.id)).all() == ["bert", "carl"]


def test_a_restored_backup_is_rid_of_what_was_erased_after_it(
    client: httpx.Client, either_settings: Settings
) -> None:
    before = erase(client, enroll(client, crop(9), identity_id="anna")[0]["identity_id"])
    first, second = enroll(client, crop(1), crop(2), identity_id="anna")
    (other,) = enroll(client, crop(3), identity_id="bert")
    (kept,) = enroll(client, crop(4), identity_id="carl")
    sha256 = hashlib.sha256(b"anna").hexdigest()
    known = Receipt(datetime.fromisoformat(before["at"]), before["identity_sha256"], before["item_ids"])
    of_anna = Receipt(now(), sha256, [first["id"]])
    of_an_item = Receipt(now(), None, [other["id"], new_id()])
    with opened(either_settings) as sessions:
        store = Store(either_settings, sessions)
        assert apply_receipts(store, [known]) == []
        assert client.get(f"/gallery/{first['id']}").status_code == 200
        own = apply_receipts(store, [known, of_anna, of_an_item])
        (again,) = enroll(client, crop(1), identity_id="anna")
        assert apply_receipts(store, [known, of_anna, of_an_item]) == []
        assert client.delete(f"/gallery/{again['id']}").status_code == 204
    assert [(e.reason, e.identity_sha256, e.erased["cleaned"]) for e in own] == [
        ("restored", sha256, True),
        ("restored", None, True),
    ]
    assert own[0].item_ids == [first["id"], second["id"]]
    assert own[1].item_ids == list(of_an_item.item_ids)
    assert search(client, crop(1))["num_searched"] == 1
    assert client.get(kept["image_url"]).content == crop(4)
    for item in (first, second, other):
        assert client.get(f"/gallery/{item['id']}").status_code == 404
    assert [e["reason"] for e in client.get("/erasures").json()["erasures"]] == [
        *("requested", "restored", "restored"),
    ]


def test_enrolments_beside_erasures_are_erased_or_make_the_identity_anew(
    client: httpx.Client, either_settings: Settings
) -> None:
    def work(number: int) -> list[str]:
        if number % 4 == 3:
            answer = client.delete("/identities/anna", params={"mode": "erase"})
            assert answer.status_code in (200, 404), answer.text
            return list(answer.json().get("item_ids", []))
        return [item["id"] for item in enroll(client, crop(number % 5), crop(number), identity_id="anna")]

    with ThreadPoolExecutor(6) as threads:
        done = list(threads.map(work, range(24)))
    erased = {item_id for number in range(3, 24, 4) for item_id in done[number]}
    enrolled = {item_id for number in range(24) if number % 4 != 3 for item_id in done[number]}
    assert erased <= enrolled
    found = search(client, crop(0), group_by="item", top_k=100)["matches"]
    assert {match["items"][0]["id"] for match in found} == enrolled - erased
    with opened(either_settings) as sessions:
        assert check(Store(either_settings, sessions)).findings == []


def test_searches_go_on_and_never_show_who_is_erased(client: httpx.Client) -> None:
    for person in range(10):
        enroll(client, crop(person), crop(person, 1), identity_id=f"p{person}")
    erased: set[str] = set()

    def look(_: int) -> None:
        gone_before = set(erased)
        found = search(client, crop(0), top_k=100)["matches"]
        assert not gone_before & {match["identity_id"] for match in found}
        assert len(found) >= 10 - 8

    def forget(person: int) -> None:
        erase(client, f"p{person}")
        erased.add(f"p{person}")

    with ThreadPoolExecutor(4) as threads:
        looking = [threads.submit(look, number) for number in range(40)]
        list(map(forget, range(8)))
        for future in looking:
            future.result()
    assert {m["identity_id"] for m in search(client, crop(0))["matches"]} == {"p8", "p9"}
