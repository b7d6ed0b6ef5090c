"""Whether there is room for the body of a request that adds to the gallery, asked before the body is read."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.idempotency import HEADER
from service.api.problems import service_problem
from service.errors import StorageFull
from service.settings import MEBIBYTE
from service.store.room import Room

ASKED_EACH = MEBIBYTE
"""Bytes of a body after which the room is asked again, because other requests are written too."""


class RoomForBody:
    """Answers 507 to a request that adds to the gallery, if its body has no room.

    A body with a Content-Length is refused unread. While a body comes in, it may not take the room that the
    database needs: a temporary file may lie on the same disk.

    Args:
        app: the wrapped app.
        room: the room of the gallery.
        folders: the folder that keeps what is in the bodies of POST requests, for each path that is asked.
    """

    def __init__(self, app: ASGIApp, room: Room, folders: Mapping[str, Path]) -> None:
        self._app = app
        self._room = room
        self._folders = folders

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        is_asked = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._folders
        if not is_asked:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        num_copies = 2 if HEADER in headers else 1  # Idempotency keeps the body, and the form its files
        ask = partial(self._room.require_for_body, self._folders[scope["path"]])
        num_bytes = asked = 0

        async def receive_and_ask() -> Message:
            nonlocal num_bytes, asked
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes - asked >= ASKED_EACH:
                asked = num_bytes
                await run_in_threadpool(ask, 0, 0)
            return message

        try:
            await run_in_threadpool(ask, int(declared) if declared.isdecimal() else 0, num_copies)
        except StorageFull as error:
            await service_problem(scope["state"]["request_id"], error)(scope, receive, send)
        else:
            await self._app(scope, receive_and_ask, send)
