"""F20: HEAD is answered on every path that GET has, with the same status and headers and without a body."""

import http.client

import httpx
import pytest

from live_server import crop, enroll
from service.api.app import create_app
from service.settings import Settings

OWN = {"date", "x-request-id"}
"""Headers that differ between two requests."""

GETS = sorted(path for path, methods in create_app(Settings()).openapi()["paths"].items() if "get" in methods)
OTHERS = [
    "/",
    "/docs",
    "/openapi.json",
    "/web/api.js",
    "/nothing",
    "/search",
    "/gallery?limit=x",
    "/gallery?q=1",
]


@pytest.fixture(scope="module")
def ids(shared_client: httpx.Client) -> dict[str, str]:
    (item,) = enroll(shared_client, crop(1), identity_id="anna", camera_id="door")
    shared_client.post("/identities/anna/split", json={"item_ids": [item["id"]], "identity_id": "bert"})
    version = shared_client.get("/readyz").json()["model_version"]
    return {
        "item_id": item["id"],
        "identity_id": "anna",
        "version": version,
        "job_id": "x",
        "operation_id": "x",
        "sha256": "0" * 64,
    }


@pytest.mark.parametrize("path", [*GETS, *OTHERS])
def test_f20_head_is_get_without_a_body(shared_client: httpx.Client, ids: dict[str, str], path: str) -> None:
    url = path.format_map(ids)
    get, head = shared_client.get(url), shared_client.head(url)
    assert head.status_code == get.status_code
    assert head.content == b""
    is_new_each_time = path == "/metrics" or "took_ms" in get.text[:2000]
    varying = OWN | ({"content-length"} if is_new_each_time else set())
    lengths = {name for name in get.headers if name not in varying}
    assert {name for name in head.headers if name not in varying} == lengths
    for name in lengths - {"etag", "last-modified", "ratelimit"}:  # the last one counts both requests
        assert head.headers[name] == get.headers[name], name


def test_f20_a_connection_goes_on_after_a_head(shared_client: httpx.Client) -> None:
    connection = http.client.HTTPConnection(shared_client.base_url.netloc.decode())
    for method in ("HEAD", "GET", "HEAD", "GET"):
        connection.request(method, "/livez")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.read() == (b"" if method == "HEAD" else b'{"status":"alive"}')
    connection.close()
