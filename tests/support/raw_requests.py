"""Requests as bytes on a connection: ordinary ones, and mutations of them that no HTTP client would send."""

import random
import re
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from live_server import crop

STATUS = re.compile(rb"^HTTP/1\.[01] (\d{3})", re.MULTILINE)
PIECES = (
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\0",
    b"\xff\xfe",
    b" ",
    b":",
    b"%00",
    b"%2e%2e/",
    b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Range: bytes=5-1\r\n",
    b"ffffffffffffffff\r\n",
    b"0\r\n\r\n",
    b"X: " + b"a" * 9000 + b"\r\n",
    b"--edge\r\n",
    b"--edge--\r\n",
)


def ordinary_requests(host: str) -> list[bytes]:
    """Return requests that the service takes, of each kind of body."""
    gallery = _form("images", {"identity_id": "anna", "camera_id": "a"})
    search, json = _form("images", {"top_k": "3"}), ("application/json", b'{"name": "Anna", "notes": null}')
    requests = [
        _request(host, "GET /gallery?limit=2&camera_id=a"),
        _request(host, "GET /"),
        _request(host, "HEAD /readyz"),
        _request(host, "OPTIONS /search"),
        _request(host, "DELETE /gallery/a"),
        _request(host, "POST /gallery", *gallery),
        _request(host, "POST /gallery", *gallery, more="Idempotency-Key: k\r\n"),
        _request(host, "POST /search", *search),
        _request(host, "POST /models", *_form("checkpoint", {})),
        _request(host, "PATCH /identities/anna", *json),
    ]
    content_type, body = search
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = f"Transfer-Encoding: chunked\r\nContent-Type: {content_type}\r\n"
    return [*requests, _request(host, "POST /search", more=head) + chunked]


def _form(name: str, fields: dict[str, str]) -> tuple[str, bytes]:
    content_type = "multipart/form-data; boundary=edge"
    files = {name: ("a.jpg", crop(1))}
    form = httpx.Request("POST", "http://x", files=files, data=fields, headers={"content-type": content_type})
    return content_type, form.read()


def _request(host: str, line: str, content_type: str = "", body: bytes = b"", more: str = "") -> bytes:
    if body:
        more += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n".encode() + body


def mutate_request(request: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Change a request in one to four places, most of them in its head."""
    data = bytearray(request)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(data), 300) if rng.random() < 0.8 else len(data)) if data else 0
        match rng.randrange(7):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.randint(1, 40)]
            case 2 | 3:
                data[at:at] = rng.choice(PIECES)
            case 4:
                data[at:at] = data[at : at + rng.randint(1, 200)] * rng.choice((1, 2, 40))
            case 5:
                data += rng.choice(others)
            case _:
                del data[at:]
    return bytes(data)


def send_raw(host: str, port: int, data: bytes, rng: random.Random, patience_s: float = 1.0) -> list[int]:
    """Send bytes in one to three pieces, and return the statuses of the answers, until no more come."""
    answered = bytearray()
    with socket.create_connection((host, port), timeout=10) as connection:
        try:
            cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(3)))
            for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                connection.sendall(data[start:end])
            connection.settimeout(patience_s)
            while piece := connection.recv(65536):
                answered += piece
        except (TimeoutError, ConnectionError):
            pass  # the server waits for more, or has had enough
    return [int(status) for status in STATUS.findall(bytes(answered))]


def bombard(host: str, port: int, seeds: range, go_on: Callable[[], bool]) -> tuple[Counter[int], list[int]]:
    """Send a mutated request for each seed while `go_on` says so, sixteen at a time.

    Returns:
        How often each status was answered, and the seeds that were answered 5xx, but for 503.
    """
    requests = ordinary_requests(f"{host}:{port}")

    def send(seed: int) -> list[int]:
        if not go_on():
            return []
        rng = random.Random(seed)
        return send_raw(host, port, mutate_request(rng.choice(requests), requests, rng), rng)

    counts, bad = Counter[int](), []
    with ThreadPoolExecutor(16) as senders:
        for seed, statuses in zip(seeds, senders.map(send, seeds), strict=True):
            counts.update(statuses)
            if any(status >= 500 and status != httpx.codes.SERVICE_UNAVAILABLE for status in statuses):
                bad.append(seed)
    return counts, bad


def is_closed(connection: socket.socket) -> bool:
    """Return whether the service has closed a connection on which it owes no answer."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
