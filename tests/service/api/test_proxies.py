"""What a trusted proxy says of a request, and that nobody else says it."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from live_server import crop, images, serve
from service.errors import BadSettings
from service.settings import Settings, read_settings

PROXY, OTHER = "127.0.0.2", "127.0.0.1"
SAID = {
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Prefix": "/reid",
    "X-Forwarded-Host": "evil.example",
}


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]
) -> Iterator[httpx.Client]:
    """A service that trusts one address of this machine, and a network."""
    folder = tmp_path_factory.mktemp("proxied") / "data"
    with serve(make_settings(folder, trusted_proxies=f"{PROXY}, 10.0.0.0/8", allow_open=True)) as client:
        yield client


def ask(
    service: httpx.Client, path: str, said: dict[str, str], peer: str = PROXY, **request: Any
) -> httpx.Response:
    """Send a request from an address of this machine."""
    with httpx.Client(
        base_url=service.base_url, transport=httpx.HTTPTransport(local_address=peer), timeout=60
    ) as client:
        return client.request(request.pop("method", "GET"), path, headers=said, **request)


def logged(service: httpx.Client, path: str, said: dict[str, str], peer: str = PROXY) -> dict[str, Any]:
    """Send a request, and return its line in the log."""
    with capture_logs() as lines:
        ask(service, path, {**said, "X-Request-ID": "asked"}, peer)
    (line,) = [line for line in lines if line["event"] == "request"]
    return dict(line)


def test_a_trusted_proxy_says_who_asks_by_which_scheme_and_where(service: httpx.Client) -> None:
    assert logged(service, "/reid/gallery", SAID)["address"] == "203.0.113.7"
    redirected = ask(service, "/reid/docs/", SAID)
    assert redirected.headers["location"] == f"https://127.0.0.1:{service.base_url.port}/reid/docs"
    assert ask(service, "/reid/openapi.json", SAID).json()["servers"] == [{"url": "/reid"}]


def test_of_anybody_else_the_same_headers_mean_nothing(service: httpx.Client) -> None:
    line = logged(service, "/gallery", SAID, OTHER)
    assert (line["address"], line["status"]) == (OTHER, 200)
    assert ask(service, "/docs/", SAID, OTHER).headers["location"] == f"{service.base_url}/docs"
    assert "servers" not in ask(service, "/openapi.json", SAID, OTHER).json()
    assert ask(service, "/reid/gallery", SAID, OTHER).status_code == 404


def test_by_default_nobody_is_trusted(shared_client: httpx.Client) -> None:
    assert logged(shared_client, "/gallery", SAID, OTHER)["address"] == OTHER
    # A gallery without a key answers nobody for whom a proxy asks, by X-Forwarded-For or -Host.
    said = {name: SAID[name] for name in ("X-Forwarded-Proto", "X-Forwarded-Prefix")}
    assert ask(shared_client, "/docs/", said, OTHER).headers["location"] == f"{shared_client.base_url}/docs"


@pytest.mark.parametrize(
    ("listed", "address"),
    [
        ("203.0.113.7, 10.1.2.3", "203.0.113.7"),  # the last one that is no proxy
        ("6.6.6.6, 2001:DB8::7", "2001:db8::7"),  # what was there before may be forged
        ("10.1.2.3", "10.1.2.3"),
        ("unix:", PROXY),
        ("fe80::1%<b>", PROXY),
        ("", PROXY),
    ],
)
def test_the_client_is_the_nearest_address_that_is_no_proxy(
    service: httpx.Client, listed: str, address: str
) -> None:
    assert logged(service, "/gallery", {"X-Forwarded-For": listed})["address"] == address


@pytest.mark.parametrize(
    ("prefix", "root"),
    [
        ("/reid", "/reid"),
        ("/a/b-c.d~e_f/", "/a/b-c.d~e_f"),
        ("/", ""),
        ("//evil.example", ""),
        ("/a/../b", ""),
        ("/..", ""),
        ("reid", ""),
        ("/%61", ""),
        ("/a b", ""),
        ("/a, /b", ""),
        ('/"><script>', ""),
        ("/a" * 128, ""),
    ],
)
def test_a_prefix_is_a_path_of_plain_segments_or_nothing(
    service: httpx.Client, prefix: str, root: str
) -> None:
    answer = ask(service, "/docs/", {"X-Forwarded-Prefix": prefix})
    assert answer.headers["location"] == f"{service.base_url}{root}/docs"


def test_two_prefixes_are_none(service: httpx.Client) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(local_address=PROXY)) as client:
        twice = [("X-Forwarded-Prefix", "/a"), ("X-Forwarded-Prefix", "/b")]
        answer = client.get(f"{service.base_url}/docs/", headers=twice)
        assert answer.headers["location"] == f"{service.base_url}/docs"


@pytest.mark.parametrize("prefix", ["/reid", "/gallery", "/gal"])
def test_a_path_with_its_prefix_leads_where_it_leads_without(service: httpx.Client, prefix: str) -> None:
    said = {"X-Forwarded-Prefix": prefix}
    for path in ("/", "/gallery", "/livez", "/web/api.js", "/static-offline-docs/swagger-ui.css"):
        assert ask(service, prefix + path, said).status_code == 200
    assert ask(service, prefix, said).headers["location"] == f"{service.base_url}{prefix}/"
    assert ask(service, f"{prefix}/gallery/none", said).json()["code"] == "item_not_found"


@pytest.mark.parametrize("prefix", ["/reid", "/gal"])
def test_a_proxy_may_take_the_prefix_off_the_path(service: httpx.Client, prefix: str) -> None:
    said = {"X-Forwarded-Prefix": prefix}
    for path in ("/", "/gallery", "/livez", "/web/api.js", "/static-offline-docs/swagger-ui.css"):
        assert ask(service, path, said).status_code == 200
    assert ask(service, "/docs/", said).headers["location"] == f"{service.base_url}{prefix}/docs"


def test_under_a_prefix_the_rules_of_paths_hold(service: httpx.Client) -> None:
    said = {"X-Forwarded-Prefix": "/reid"}
    large = b"x" * 1_100_000
    assert ask(service, "/reid/gallery", said, method="POST", content=large).status_code == 422
    assert ask(service, "/reid/jobs", said, method="POST", content=large).status_code == 413
    assert ask(service, "/reid/livez", said | {"Host": "elsewhere.example"}).status_code == 200
    assert ask(service, "/reid/gallery", said | {"Host": "elsewhere.example"}).status_code == 421
    assert logged(service, "/reid/livez", said)["log_level"] == "debug"
    assert logged(service, "/reid/identities/anna", said)["path"] == "/identities/{identity_id}"


def test_urls_of_an_answer_lead_through_the_proxy(service: httpx.Client) -> None:
    said = {"X-Forwarded-Prefix": "/reid"}

    def follow(path: str) -> int:
        assert path.startswith("/reid/")
        return ask(service, path, said).status_code

    item = ask(service, "/reid/gallery", said, method="POST", files=images(crop(1))).json()["items"][0]
    assert follow(item["image_url"]) == 200
    found = ask(service, "/reid/search", said, method="POST", files=images(crop(1))).json()["matches"]
    assert follow(found[0]["items"][0]["image_url"]) == 200
    job = ask(
        service, "/reid/gallery", said | {"Prefer": "respond-async"}, method="POST", files=images(crop(2))
    )
    assert follow(job.headers["location"]) == 200
    named = ask(service, "/reid/identities", said, method="POST", json={"id": "/reid/é"})
    assert follow(named.headers["location"]) == 200


def test_a_repeat_by_another_way_is_done_once_and_gets_the_first_answer(service: httpx.Client) -> None:
    key = {"Idempotency-Key": "one"}
    first = ask(
        service, "/reid/gallery", SAID | key, method="POST", files=images(crop(3)), data={"camera_id": "a"}
    )
    again = ask(
        service, "/gallery", key, OTHER, method="POST", files=images(crop(3)), data={"camera_id": "a"}
    )
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.content == first.content


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("proxy.example", "does not appear"),
        ("10.0.0.1/8", "has host bits set"),
        ("10.0.0.0/99", "does not appear"),
    ],
)
def test_what_is_no_address_cannot_be_trusted(
    value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REID_TRUSTED_PROXIES", value)
    with pytest.raises(BadSettings, match=f"REID_TRUSTED_PROXIES: .*{reason}"):
        read_settings()


def test_any_address_may_be_trusted(tmp_path: Path, make_settings: Callable[..., Settings]) -> None:
    with serve(make_settings(tmp_path / "data", trusted_proxies="*", allow_open=True)) as service:
        assert logged(service, "/gallery", SAID, OTHER)["address"] == "203.0.113.7"


def test_no_prefix_makes_a_path_of_a_target_that_is_none(service: httpx.Client) -> None:
    ask(service, "/identities", {}, method="POST", json={"id": "vip*"})
    host = f"127.0.0.1:{service.base_url.port}"
    head = f"DELETE * HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Prefix: /identities/vip\r\n"
    with socket.create_connection((OTHER, service.base_url.port or 80), source_address=(PROXY, 0)) as peer:
        peer.sendall(f"{head}Connection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: peer.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert ask(service, "/identities/vip*", {}).status_code == 200
