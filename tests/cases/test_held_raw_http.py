"""Held: no bytes on a connection make the service answer with an error of its own, or stop serving others."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from command_line import MakeEnv, reid_serve
from live_server import crop, enroll, search
from raw_requests import bombard
from service.api.middleware import RequestId


def test_mutated_requests_are_refused_and_others_are_served(
    make_env: MakeEnv, tmp_path: Path, is_long: bool
) -> None:
    log = tmp_path / "log"
    with (
        reid_serve(make_env(tmp_path / "data"), log) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        enroll(client, crop(5), identity_id="witness")
        url = client.base_url
        counts, bad = bombard(url.host, url.port or 80, range(6_000 if is_long else 160), lambda: True)
        assert bad == []
        assert {200, 201, 400, 404, 422} <= counts.keys()
        assert search(client, crop(5))["matches"][0]["identity_id"] == "witness"
    assert "Traceback" not in log.read_text()


async def receive_nothing() -> dict[str, Any]:
    return {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("reason", "is_raised"),
    [("unable to perform operation on <TCPTransport>; the handler is closed", False), ("a mistake", True)],
)
def test_an_answer_to_a_client_that_has_gone_is_no_error(reason: str, is_raised: bool) -> None:
    async def send(_message: object) -> None:
        raise RuntimeError(reason)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    answered = RequestId(PlainTextResponse("x"))(scope, receive_nothing, send)
    if is_raised:
        with pytest.raises(RuntimeError, match=reason):
            asyncio.run(answered)
    else:
        asyncio.run(answered)
