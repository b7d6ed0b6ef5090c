"""Which requests the client sends again, against a server that answers as each test says."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread

import pytest

from live_server import find_free_port
from service.client import NoAnswer, Refused, ServiceUnreachable
from service.client.calls import Call
from service.client.problems import read_answer
from service.client.transport import AsyncTransport, Transport

Answer = tuple[int, dict[str, str], bytes] | None
"""Status, headers and body; None closes the connection without an answer."""

OK: Answer = (200, {}, b'{"fine": true}')
keys: list[str | None] = []
"""The Idempotency-Keys of the requests to `answering`, of which the last are those of its last server."""

BUSY: Answer = (503, {"Retry-After": "1"}, b'{"code": "database_unavailable", "detail": "busy"}')


@contextmanager
def answering(*answers: Answer) -> Iterator[tuple[Transport, list[bytes]]]:
    """Serve these answers one after the other; give a transport to the server, and the bodies it is sent."""
    left, bodies = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            keys.append(self.headers["Idempotency-Key"])
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            answer = left.pop(0)
            if answer is None:
                self.connection.close()
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name it has
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        transport = Transport(f"http://127.0.0.1:{server.server_port}")
        try:
            yield transport, bodies
        finally:
            transport.close()
            server.shutdown()
            thread.join()


def test_a_request_to_a_busy_service_is_sent_again_with_its_whole_body() -> None:
    started_s = time.monotonic()
    with answering((429, {}, b""), BUSY, OK) as (transport, bodies):
        response = transport.request("POST", "/gallery", files={"archive": BytesIO(b"crops")})
    assert read_answer(response) == {"fine": True}
    assert [body.count(b"crops") for body in bodies] == [1, 1, 1]
    assert time.monotonic() - started_s >= 0.5 + 1.0  # the first delay, then what Retry-After says


def test_a_service_that_limits_the_rate_is_asked_until_its_turn_comes() -> None:
    limited: Answer = (429, {"Retry-After": "0"}, b'{"code": "rate_limited"}')
    with answering(*[limited] * 7, OK) as (transport, bodies):  # more often than to a busy service
        assert transport.request("POST", "/search", json={}).is_success
    assert len(bodies) == 8


def test_a_service_that_starts_is_asked_until_it_is_ready() -> None:
    starting: Answer = (503, {}, b'{"code": "not_ready"}')
    with answering(*[starting] * 7, OK) as (transport, bodies):  # more often than other requests are sent
        assert transport.request("POST", "/search", json={}).is_success
    assert len(bodies) == 8


@pytest.mark.parametrize(
    "answer", [(503, {}, b'{"code": "crop_missing", "detail": "gone", "position": 2}'), (500, {}, b"oops")]
)
def test_an_error_that_stays_is_answered_at_once(answer: Answer) -> None:
    with answering(answer) as (transport, bodies):
        response = transport.request("POST", "/search", json={})
    with pytest.raises(Refused) as refusal:
        read_answer(response)
    assert len(bodies) == 1
    assert (refusal.value.status, refusal.value.code, refusal.value.position) in (
        (503, "crop_missing", 2),
        (500, "", None),
    )


def test_a_request_without_an_answer_is_not_sent_again() -> None:
    with answering(None, OK) as (transport, bodies):
        with pytest.raises(NoAnswer, match="no answer from http://127"):
            transport.request("POST", "/gallery", json={})
        assert len(bodies) == 1


def test_what_is_done_once_is_sent_again_under_one_key() -> None:
    in_progress: Answer = (409, {"Retry-After": "0"}, b'{"code": "idempotency_in_progress"}')
    call = Call("POST", "/gallery", read_answer, {"files": {"archive": BytesIO(b"crops")}}, is_done_once=True)
    with answering(None, in_progress, OK, OK) as (transport, bodies):
        assert transport.send(call) == transport.send(call) == {"fine": True}
    assert [body.count(b"crops") for body in bodies] == [1, 1, 1, 1]
    first, again, last, other = keys[-4:]
    assert first == again == last != other
    assert first is not None


def test_what_changes_nothing_is_sent_again_without_an_answer() -> None:
    call = Call("POST", "/search", read_answer, is_safe=True)
    with answering(None, OK) as (transport, _):
        assert transport.send(call) == {"fine": True}
    assert keys[-2:] == [None, None]

    async def send(url: str) -> None:
        transport = AsyncTransport(url)
        assert await transport.send(call) == {"fine": True}
        with pytest.raises(NoAnswer):
            await transport.send(replace(call, is_safe=False))
        await transport.close()

    with answering(None, BUSY, OK, None) as (transport, bodies):
        asyncio.run(send(transport.connection.url))
    assert len(bodies) == 4


def test_once_a_request_has_waited_in_vain_the_others_do_not() -> None:
    transport = Transport(f"http://127.0.0.1:{find_free_port()}")

    def seconds_until_unreachable(delay_s: float) -> float:
        time.sleep(delay_s)
        started_s = time.monotonic()
        with pytest.raises(ServiceUnreachable, match="start one with `reid serve`"):
            transport.request("GET", "/gallery")
        return time.monotonic() - started_s

    with ThreadPoolExecutor() as threads:
        first_s, later_s = threads.map(seconds_until_unreachable, (0, 5))
    assert first_s >= 0.5 + 1 + 2 + 4 + 8
    assert later_s < 14
    assert seconds_until_unreachable(0) < 1
    transport.close()


def test_once_the_service_is_back_a_client_is_patient_again() -> None:
    with answering(OK) as (transport, _):
        transport.connection.is_gone.set()
        assert transport.request("POST", "/gallery", json={}).is_success
        assert not transport.connection.is_gone.is_set()


def test_what_is_no_url_is_told() -> None:
    with pytest.raises(ServiceUnreachable, match="is not a URL"):
        Transport("http://host:port")
    with pytest.raises(ServiceUnreachable, match="is not the URL of a service"):
        Transport("gallery")


@pytest.mark.parametrize(
    ("status", "meaning"),
    [(413, "client_max_body_size"), (502, "no answer from the service"), (504, "proxy_read_timeout")],
)
def test_an_error_of_a_proxy_is_told_in_a_sentence(status: int, meaning: str) -> None:
    with answering((status, {"Content-Type": "text/html"}, b"<html>")) as (transport, _):
        answer = transport.request("POST", "/gallery", content=b"crop")
        with pytest.raises(Refused, match=meaning):
            read_answer(answer)
