"""A7: the head of a request has a limit, and what is shorter is answered."""

import random
from pathlib import Path

import httpx

from command_line import MakeEnv, reid_serve
from live_server import crop, enroll
from raw_requests import send_raw
from service.cli.connections import MAX_HEAD_BYTES

HEAD = (
    b"PATCH /identities/a HTTP/1.1\r\n"
    b"Host: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
)
LONG = 4 * MAX_HEAD_BYTES
TOO_LONG = {
    "a value": b"X: " + b"a" * LONG,
    "a name": b"X" * LONG + b": a",
    "many": b"X: a\r\n" * (LONG // 6) + b"X: a",
    "a trailer": b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: " + b"a" * LONG,
    "an extension": b"Transfer-Encoding: chunked\r\n\r\n2;" + b"a" * LONG,
}


def test_a7_a_head_without_an_end_is_refused_and_others_are_served(make_env: MakeEnv, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with reid_serve(make_env(tmp_path / "data"), log) as server:
        url = httpx.URL(server.url)

        def send(headers: bytes) -> list[int]:
            request = HEAD + headers + b"\r\n\r\n"
            return send_raw(url.host, url.port or 80, request, random.Random(1), patience_s=30)

        for headers in TOO_LONG.values():  # the answer is lost if the client is still sending
            assert send(headers) in ([431], [])
        assert log.read_text().count("the headers have more than") == len(TOO_LONG)
        assert send(b"X: " + b"a" * (MAX_HEAD_BYTES // 2)) == [422]
        with httpx.Client(base_url=url, timeout=60) as client:
            for number in range(3):  # over one connection, whose bodies are no part of a head
                enroll(client, crop(number) + bytes(LONG))
    assert "Traceback" not in log.read_text()
