"""Idempotency-Key: done once and answered alike, whoever sends it twice, and whatever dies in between."""

import hashlib
import itertools
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update
from sqlalchemy.orm import Session

from killed_server import start_process, wait_for
from live_server import crop, find_free_port, images, search, serve
from service.api.claims import Claim, Claims, keep_answer
from service.api.idempotency import _HashedCopy
from service.errors import IdempotencyInProgress
from service.jobs.jobs import LEASE
from service.settings import Settings
from service.store.database import make_engine, make_sessions, migrate
from service.store.store import Store
from service.store.tables import KeptAnswer, now


def post(client: httpx.Client, key: str, *contents: bytes, **fields: Any) -> httpx.Response:
    files = images(*contents)
    return client.post("/gallery", files=files, data=fields, headers={"Idempotency-Key": key})


@contextmanager
def kept_answers(settings: Settings) -> Iterator[Session]:
    engine = make_engine(settings.database_url)
    with Session(engine) as session, session.begin():
        yield session
    engine.dispose()


def test_a_repeat_gets_the_first_answer_and_another_body_none(
    client: httpx.Client, either_settings: Settings
) -> None:
    first = post(client, "a", crop(1), crop(2), identity_id="anna")
    with serve(either_settings) as other:
        for server in (client, other):
            again = post(server, "a", crop(1), crop(2), identity_id="anna")
            assert (again.status_code, again.json()) == (201, first.json())
            assert again.headers["idempotency-replayed"] == "true"
            for contents, fields in (((crop(1),), {"identity_id": "anna"}), ((crop(1), crop(2)), {})):
                answer = post(server, "a", *contents, **fields)
                assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert "idempotency-replayed" not in first.headers
    assert post(client, "b", crop(1), crop(2), identity_id="anna").json()["items"] != first.json()["items"]
    assert search(client, crop(1))["num_searched"] == 4


def test_it_holds_for_every_kind_of_post(client: httpx.Client) -> None:
    def send(path: str, key: str, body: dict[str, Any]) -> httpx.Response:
        return client.post(path, json=body, headers={"Idempotency-Key": key})

    made = send("/identities", "1", {"id": "anna", "name": "A"})
    again = send("/identities", "1", {"id": "anna", "name": "A"})
    assert (again.status_code, again.headers["location"]) == (201, made.headers["location"])
    assert send("/identities", "2", {"id": "anna", "name": "A"}).status_code == 409
    assert send("/gallery/delete", "1", {"id": "anna", "name": "A"}).status_code == 422  # another path
    post(client, "3", crop(1), identity_id="anna")
    order = {"filter": {}, "expected_count": 1}
    assert send("/gallery/delete", "4", order).json()["deleted"]
    assert send("/gallery/delete", "4", order).json()["deleted"]
    assert send("/gallery/delete", "5", order).status_code == 409


def test_a_request_that_fails_frees_its_key(client: httpx.Client) -> None:
    for _ in range(2):
        assert post(client, "a", b"not an image").status_code == 415
    assert post(client, "a", crop(1)).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "\u00e4", "a\tb"])
def test_a_key_that_is_none_is_refused(shared_client: httpx.Client, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode())]
    answer = shared_client.post("/gallery", files=images(crop(1)), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_one_of_many_at_once_is_done_and_the_others_wait_or_get_its_answer(client: httpx.Client) -> None:
    barrier = threading.Barrier(8)

    def send(_: int) -> httpx.Response:
        barrier.wait()
        return post(client, "a", crop(1), crop(2))

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(send, range(8)))
    done = [answer.json() for answer in answers if answer.status_code == 201]
    waiting = [answer for answer in answers if answer.status_code != 201]
    assert len(done) >= 1
    assert all(answer == done[0] for answer in done)
    assert {answer.json()["code"] for answer in waiting} <= {"idempotency_in_progress"}
    assert {answer.status_code for answer in waiting} <= {409}
    assert search(client, crop(1))["num_searched"] == 2


def test_a_claim_whose_process_has_died_is_taken_over_and_one_that_lives_is_not(
    client: httpx.Client, either_settings: Settings
) -> None:
    answer = post(client, "a", crop(1))
    with kept_answers(either_settings) as session:  # as if it had been killed before it could commit
        session.execute(update(KeptAnswer).values(status=None, body=None))
    assert post(client, "a", crop(1)).json()["code"] == "idempotency_in_progress"
    for alive_at in (now() - timedelta(seconds=11), now() + timedelta(days=400)):  # a clock set back too
        with kept_answers(either_settings) as session:
            session.execute(update(KeptAnswer).values(status=None, body=None, alive_at=alive_at))
        again = post(client, "a", crop(1))
        assert again.status_code == 201
        assert again.json()["items"] != answer.json()["items"]


def test_an_answer_is_kept_for_a_day(client: httpx.Client, either_settings: Settings) -> None:
    first = post(client, "a", crop(1))
    for hours, is_same in ((23, True), (25, False)):
        with kept_answers(either_settings) as session:
            session.execute(update(KeptAnswer).values(created_at=now() - timedelta(hours=hours)))
        assert (post(client, "a", crop(1)).json() == first.json()) is is_same


def test_an_enrolment_that_was_committed_but_never_answered_is_not_done_again(settings: Settings) -> None:
    """The server is killed while clients send the same requests again and again."""
    port = find_free_port()
    ids: dict[int, set[str]] = {number: set() for number in range(40)}
    process = start_process(settings, port)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_for(client, process)
            is_killed, is_up_again = threading.Event(), threading.Event()

            def send(number: int) -> None:
                while not ids[number]:
                    try:
                        answer = post(client, f"key {number}", crop(number), crop(100 + number))
                    except httpx.TransportError:
                        is_up_again.wait()
                        continue
                    if number == 10 and not is_killed.is_set():
                        is_killed.set()
                        process.kill()
                    if answer.status_code == 201:
                        ids[number] |= {item["id"] for item in answer.json()["items"]}

            with ThreadPoolExecutor(4) as threads:
                futures = [threads.submit(send, number) for number in ids]
                is_killed.wait()
                process.wait()
                with kept_answers(settings) as session:  # the leases of what the killed server did are over
                    under_way = KeptAnswer.status.is_(None)
                    session.execute(update(KeptAnswer).where(under_way).values(alive_at=now() - 2 * LEASE))
                process = start_process(settings, port)
                wait_for(client, process)
                is_up_again.set()
                for future in futures:
                    future.result()
            found = search(client, crop(1), group_by="item", top_k=1000)["matches"]
            assert {match["items"][0]["id"] for match in found} == set().union(*ids.values())
            assert len(found) == 80
    finally:
        process.kill()
        process.wait()


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_a_boundary_is_left_out_wherever_chunks_end(content: bytes, cuts: list[int]) -> None:
    boundary = b"\x00\x01\x00"
    body = content.replace(boundary, b"").join([b"<", boundary, b">"])
    digest, file = hashlib.sha256(), BytesIO()
    copy = _HashedCopy(file, digest, boundary)
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    for start, end in itertools.pairwise(places):
        copy.write(body[start:end])
    copy.finish()
    assert digest.digest() == hashlib.sha256(body.replace(boundary, b"")).digest()
    assert file.getvalue() == body


def post_form(client: httpx.Client, boundary: str, identity_id: str) -> httpx.Response:
    """Enrol a crop under the key "a" in a form with this boundary."""
    head = 'Content-Disposition: form-data; name="{}"'.format
    file = (head("images") + '; filename="a.jpg"\r\n\r\n').encode() + crop(1)
    text = (head("identity_id") + f"\r\n\r\n{identity_id}").encode()
    line = f"\r\n--{boundary}".encode()
    body = (line + b"\r\n" + file + line + b"\r\n" + text + line + b"--\r\n").removeprefix(b"\r\n")
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Idempotency-Key": "a"}
    return client.post("/gallery", content=body, headers=kind)


def test_a_repeat_may_have_another_boundary(client: httpx.Client) -> None:
    assert post_form(client, "1234567890123456", "anna").status_code == 201
    again = post_form(client, "123456789012345678901234", "anna")
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert post_form(client, "1234567890123456", "bert").status_code == 422


def test_a_short_boundary_in_a_field_does_not_make_two_requests_one(client: httpx.Client) -> None:
    assert post_form(client, "q", "iraq").status_code == 201
    answer = post_form(client, "q", "ira")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")


def test_a_caller_that_vanishes_half_way_has_done_nothing(client: httpx.Client) -> None:
    request = client.build_request("POST", "/gallery", files=images(crop(1), crop(2), crop(3)))
    body = request.read()
    head = [f"{name}: {value}" for name, value in request.headers.items()]
    lines = ["POST /gallery HTTP/1.1", *head, "Idempotency-Key: a", "", ""]
    address = (client.base_url.host, client.base_url.port or 80)
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall("\r\n".join(lines).encode() + body[: 2 * len(body) // 3])
    assert post(client, "a", crop(1), crop(2), crop(3)).status_code == 201
    assert search(client, crop(1))["num_searched"] == 3


def test_who_was_wrongly_thought_dead_cannot_commit(either_settings: Settings) -> None:
    engine = make_engine(either_settings.database_url)
    migrate(engine)
    store = Store(either_settings, make_sessions(engine))
    slow, fast = Claim("a", "same"), Claim("a", "same")
    slow.taken_at -= timedelta(seconds=20)  # its lease is over
    assert Claims(store).take(slow) is None
    other = Claims(store)
    assert other.take(fast) is None
    with pytest.raises(IdempotencyInProgress), store.sessions.write.begin() as session:
        keep_answer({"state": {"claim": slow}}, session, 201, "late", None)
    Claims(store).release(slow)
    with store.sessions.write.begin() as session:
        keep_answer({"state": {"claim": fast}}, session, 201, "in time", None)
    other.release(fast)
    kept = Claims(store).take(Claim("a", "same"))
    assert kept is not None
    assert kept.body == b"in time"
    engine.dispose()


def test_no_answer_of_a_search_is_kept(settings: Settings) -> None:
    with serve(settings) as client:
        post(client, "enrolment", crop(1), identity_id="anna")
        for path, fields in (("/search", {}), ("/verify", {"identity_id": "anna"})):
            for _ in range(2):
                sent = {"Idempotency-Key": "search"}
                answer = client.post(path, files=images(crop(1)), data=fields, headers=sent)
                assert answer.status_code == 200
                assert "idempotency-replayed" not in answer.headers
    with kept_answers(settings) as session:
        assert [kept.key for kept in session.query(KeptAnswer)] == ["enrolment"]


def test_no_answer_is_kept_that_may_name_a_person_who_was_erased_meanwhile(either_settings: Settings) -> None:
    with serve(either_settings) as client:
        post(client, "before", crop(1), identity_id="gone")
        engine = make_engine(either_settings.database_url)
        claims = Claims(Store(either_settings, make_sessions(engine)))
        searching, other = Claim("a", "a"), Claim("b", "b")
        assert claims.take(searching) is None
        assert client.delete("/identities/gone", params={"mode": "erase"}).status_code == 200
        assert claims.take(other) is None
        for claim in (searching, other):
            claim.answer = (200, None, b'{"identity_id": "gone"}')
            claims.release(claim)
        engine.dispose()
    with kept_answers(either_settings) as session:
        assert [kept.key for kept in session.query(KeptAnswer)] == ["b"]
