"""The OpenAPI document is written once, and is the one that FastAPI would write."""

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from live_server import serve
from service.api.app import create_app
from service.settings import Settings


def noting_bodies(app: ASGIApp, bodies: list[bytes]) -> ASGIApp:
    """Note the body of each answer about the document."""

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.body" and scope["path"] == "/openapi.json":
                bodies.append(message["body"])
            await send(message)

        await app(scope, receive, send_on)

    return note


def test_the_document_is_written_only_once(settings: Settings) -> None:
    bodies: list[bytes] = []
    with serve(settings, wait=False, wrap=lambda app: noting_bodies(app, bodies)) as client:
        for _ in range(2):
            assert client.get("/openapi.json").status_code == 200
    assert bodies[0] is bodies[1]


@pytest.mark.parametrize("prefix", ["", "/reid/a~b"])
def test_the_document_is_the_one_that_fastapi_would_write(
    tmp_path: Path, make_settings: Callable[..., Settings], prefix: str
) -> None:
    settings = make_settings(tmp_path / "data", trusted_proxies="*", allow_open=True)
    document = create_app(settings).openapi()
    if prefix:
        document = {**document, "servers": [{"url": prefix}]}
    with serve(settings, wait=False) as client:
        answer = client.get("/openapi.json", headers={"X-Forwarded-Prefix": prefix})
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == JSONResponse(document).body
