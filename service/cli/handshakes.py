"""TLS of the server: a handshake counts as a connection, and gives way as an idle one does.

If uvicorn had the certificate, a connection would count from the end of its handshake on. Clients that begin
none would then take every file descriptor for a minute, and no probe would be answered.
"""

import asyncio
import os
import socket
import time
from typing import Any

import uvicorn

from service.cli.connections import BoundedConnection, make_room

GOODBYE_S = 20.0
"""Seconds that a client has to take the end of an answer, of which some 128 KiB may wait, and to confirm the
end of its TLS."""


class TlsConfig(uvicorn.Config):
    """A configuration whose certificate is used by `Handshake`, and not by the listener."""

    def load(self) -> None:
        """Load the app and the certificate."""
        super().load()
        self.tls, self.ssl = self.ssl, None


class Handshake(asyncio.Protocol):
    """A connection until its handshake has ended. Then it goes on as a connection of `kind`.

    The connection is taken from uvicorn before a byte is read, and given to the event loop again with TLS.

    Attributes:
        kind: the class of the connection.
        waits_since_s: since when there is no request; None if it gives way.
    """

    kind = BoundedConnection
    waits_since_s: float | None = None

    _accepted: socket.socket
    _task: "asyncio.Task[object]"

    def __init__(self, config: TlsConfig, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        self._tls = config.tls
        self._connections: set[Any] = server_state.connections
        self._connection = self.kind(config, server_state, app_state, _loop)
        self._connection.handshake = self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a handshake, in place of an idle connection if there are too many."""
        self._accepted = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._accepted.setblocking(False)
        self._accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.abort()  # type: ignore[attr-defined]  # which BaseTransport lacks, and every transport has
        loop = self._connection.loop
        self._task = loop.create_task(self._shake_hands(loop))
        self._task.add_done_callback(self._end)
        self.waits_since_s = time.monotonic()
        self._connections.add(self)
        make_room(self._connections, self.kind.max_connections, self)

    async def _shake_hands(self, loop: asyncio.AbstractEventLoop) -> None:
        await loop.connect_accepted_socket(
            lambda: self._connection,
            self._accepted,
            ssl=self._tls,
            ssl_handshake_timeout=self.kind.head_s,
            ssl_shutdown_timeout=GOODBYE_S,
        )

    def _end(self, task: "asyncio.Task[object]") -> None:
        self._connections.discard(self)
        if task.cancelled():
            self._accepted.close()
        elif (error := task.exception()) is not None:
            self._accepted.close()
            if not isinstance(error, OSError):  # OSError: the client has gone, is too slow, or speaks no TLS
                raise error

    def give_way(self) -> None:
        """End the connection, on which no request has come."""
        self.waits_since_s = None
        self._task.cancel()

    shutdown = give_way
