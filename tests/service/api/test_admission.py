"""Requests have turns by class: who comes too late is told at once, and no class holds back another."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
from starlette.types import ASGIApp

from live_server import TIMEOUT_S, crop, enroll, images, search, serve, wait_until
from scraped import scrape
from service.api.admission import LIMITS, Limit
from service.settings import Settings

LONG_S = 120.0
REFUSED = 'reid_http_requests_total{method="POST",route="/gallery",status="503"}'


@contextmanager
def held(settings: Settings, enrolment: Limit) -> Iterator[tuple[httpx.Client, Callable[[], None]]]:
    """Serve with enrolments that do not go on until the second value is called."""
    apps: list[Any] = []

    def keep(app: ASGIApp) -> ASGIApp:
        apps.append(app)
        return app

    with serve(settings, wrap=keep, limits={**LIMITS, "enrolment": enrolment}) as client:
        turn = apps[0].state.serving.priority.no_enrolment()
        turn.__enter__()
        ends = [turn]

        def release() -> None:
            while ends:
                ends.pop().__exit__(None, None, None)

        try:
            yield client, release
        finally:
            release()


def post_each(threads: ThreadPoolExecutor, client: httpx.Client, num: int) -> list["Future[httpx.Response]"]:
    """Enrol crops at the same time."""

    def post(seed: int) -> httpx.Response:
        return httpx.post(f"{client.base_url}/gallery", files=images(crop(seed)), timeout=TIMEOUT_S)

    return [threads.submit(post, seed) for seed in range(num)]


def raw_post(client: httpx.Client, path: str, seed: int) -> tuple[socket.socket, bytes]:
    """Connect, send the head of a POST of one crop, and return the connection and the body."""
    request = client.build_request("POST", path, files=images(crop(seed)))
    body = request.read()
    head = [f"{name}: {value}" for name, value in request.headers.items()]
    connection = socket.create_connection((client.base_url.host, client.base_url.port or 80), TIMEOUT_S)
    connection.sendall("\r\n".join([f"POST {path} HTTP/1.1", *head, "", ""]).encode())
    return connection, body


def test_what_is_too_much_is_refused_at_once_and_the_rest_is_done(settings: Settings) -> None:
    with held(settings, Limit(2, 3, LONG_S)) as (client, release), ThreadPoolExecutor(12) as threads:
        before = scrape(client)
        posts = post_each(threads, client, 12)
        wait_until(lambda: sum(post.done() for post in posts) == 12 - 5)
        wait_until(lambda: scrape(client)[REFUSED] == before[REFUSED] + 7)  # it is counted after the answer
        overloaded = 'reid_overloaded_total{class="enrolment"}'
        assert scrape(client)[overloaded] == before[overloaded] + 7
        for refused in (post.result() for post in posts if post.done()):
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            assert refused.headers["retry-after"] == "1"
            assert "request_id" in refused.json()
        assert client.post("/search", files=images(crop(1))).status_code == 200
        assert client.get("/gallery").json()["items"] == []
        release()
        assert sorted(post.result().status_code for post in posts) == [201] * 5 + [503] * 7
        assert len(client.get("/gallery").json()["items"]) == 5


def test_nobody_waits_longer_than_the_time_of_its_class(settings: Settings) -> None:
    with held(settings, Limit(1, 9, 0.2)) as (client, release), ThreadPoolExecutor(3) as threads:
        posts = post_each(threads, client, 3)
        wait_until(lambda: sum(post.done() for post in posts) == 2)
        release()
        assert sorted(post.result().status_code for post in posts) == [201, 503, 503]


def test_a_full_queue_is_told_before_the_caller_is_looked_up(settings: Settings) -> None:
    with held(settings, Limit(1, 1, LONG_S)) as (client, release), ThreadPoolExecutor(3) as threads:
        posts = post_each(threads, client, 3)
        wait_until(lambda: any(post.done() for post in posts))
        key = {"Authorization": "Bearer of nobody"}
        assert client.post("/gallery", headers=key, files=images(crop(9))).status_code == 503
        release()
        assert sorted(post.result().status_code for post in posts) == [201, 201, 503]
        assert client.post("/gallery", headers=key, files=images(crop(9))).status_code == 401


def test_sign_ins_take_no_turn_of_those_who_have_a_key(settings: Settings) -> None:
    with serve(settings, limits={**LIMITS, "session": Limit(0, 0, LONG_S)}) as client:
        assert client.delete("/session").status_code == 503
        assert client.post("/session", json={"key": "x"}).status_code == 503
        assert client.post("/identities", json={"id": "anna"}).status_code == 201


def test_an_upload_that_is_not_complete_takes_no_turn(settings: Settings) -> None:
    with serve(settings, limits={**LIMITS, "search": Limit(1, 1, 20.0)}) as client:
        connection, body = raw_post(client, "/search", 1)
        connection.sendall(body[:100])
        search(client, crop(1))
        connection.sendall(body[100:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.close()


def test_what_a_client_that_has_left_has_sent_is_dropped_in_the_queue(settings: Settings) -> None:
    with held(settings, Limit(1, 9, LONG_S)) as (client, release), ThreadPoolExecutor(1) as threads:
        for seed in range(20, 25):
            connection, body = raw_post(client, "/gallery", seed)
            connection.sendall(body)
            connection.close()
        (post,) = post_each(threads, client, 1)
        release()
        assert post.result().status_code == 201
        (item,) = client.get("/gallery").json()["items"]
        assert item["id"] == post.result().json()["items"][0]["id"]


def test_each_turn_is_given_back_however_a_request_ends(settings: Settings) -> None:
    with serve(settings, limits=dict.fromkeys(LIMITS, Limit(1, 1, LONG_S))) as client:
        (item,) = enroll(client, crop(1), identity_id="anna")
        for number in range(3):
            assert client.get("/gallery?limit=x").status_code == 422
            assert client.get(f"/gallery/{item['id']}/image").status_code == 200
            assert client.head("/gallery").status_code == 200
            assert client.post("/search", files=images(b"no image")).status_code == 415
            assert client.post("/search", content=b"{}").status_code == 422
            assert client.post("/identities/anna/merge", content=b"{").status_code in (400, 422)
            assert client.post("/identities/anna/merge", content=bytes(2_000_000)).status_code == 413
            assert client.post("/models/rollback").status_code == 409
            key = {"Idempotency-Key": str(number)}
            assert client.post("/gallery", files=images(b""), headers=key).status_code == 415
            assert client.delete("/identities/nobody").status_code == 404
            for path in ("/search", "/gallery"):
                connection, body = raw_post(client, path, 1)
                connection.sendall(body[:100])
                connection.close()
        search(client, crop(1))
        enroll(client, crop(2))
        assert client.patch("/identities/anna", json={"name": "Anna"}).status_code == 200
