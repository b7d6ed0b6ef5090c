"""What a proxy in front of the service says about a request: its client, its scheme, and its prefix.

The prefix is the path at which the proxy shows the service, such as `/reid`. Middleware sees paths without
the prefix, routes see them with it, and URLs in answers begin with it.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")
"""Segments of unreserved characters, none of them a dot segment. `//evil.org` would be another host."""

MAX_PREFIX = 255

_prefix: ContextVar[str] = ContextVar("prefix", default="")


class Forwarded:
    """Takes client, scheme and prefix of a request from the X-Forwarded-* of a trusted proxy.

    X-Forwarded-For, -Proto and -Prefix of anybody else mean nothing. X-Forwarded-Host never means anything,
    because a proxy hands on the Host of the client.

    Args:
        app: the wrapped app.
        trusted: addresses and networks of the proxies; `*` stands for every address.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        headers = ProxyHeadersMiddleware(_end, "*" if "*" in trusted else _with_mapped(trusted))
        self._is_trusted: Callable[[str], bool] = headers.trusted_hosts.__contains__
        self._rewrite: Callable[[Any, Any, Any], Awaitable[None]] = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        peer = scope.get("client")
        if scope["type"] == "http" and peer is not None and self._is_trusted(peer[0]):
            await self._rewrite(scope, receive, send)
            scope["client"] = _plain_client(scope["client"]) or peer
            _take_prefix(scope)
        await self._app(scope, receive, send)


async def _end(*_: object) -> None:
    """Do nothing: uvicorn's middleware has changed the scope when it calls the app that it wraps."""


def _with_mapped(trusted: Sequence[str]) -> list[str]:
    """Add the form that an IPv4 address has on a socket that listens on IPv6 as well.

    >>> _with_mapped(["10.0.0.0/8", "::1"])
    ['10.0.0.0/8', '::1', '::ffff:10.0.0.0/104']
    """
    networks = [ip_network(one) for one in trusted]
    mapped = [
        f"::ffff:{one.network_address}/{96 + one.prefixlen}"
        for one in networks
        if isinstance(one, IPv4Network)
    ]
    return [*trusted, *mapped]


def _plain_client(client: tuple[str, int]) -> tuple[str, int] | None:
    """Return a client with its address in one spelling, or None if what a proxy has sent is no address.

    >>> _plain_client(("2001:DB8:0::1", 0)), _plain_client(("unix:", 0)), _plain_client(("fe80::1%a", 0))
    (('2001:db8::1', 0), None, None)
    """
    try:
        address = ip_address(client[0])
    except ValueError:
        return None
    return None if "%" in client[0] else (str(address), client[1])


def _take_prefix(scope: Scope) -> None:
    """Note the prefix of a request, and take it off the path unless the proxy has done so."""
    sent = Headers(scope=scope).getlist("x-forwarded-prefix")
    prefix = sent[0].rstrip("/") if len(sent) == 1 else ""
    if len(prefix) > MAX_PREFIX or not PREFIX.fullmatch(prefix):
        return
    scope["root_path"] = prefix
    raw: bytes = scope["raw_path"]
    if raw == prefix.encode() or raw.startswith(f"{prefix}/".encode()):
        scope["raw_path"] = raw[len(prefix) :]
        scope["path"] = scope["path"][len(prefix) :]


class Prefixed:
    """Gives routes the whole path, which begins with the prefix, as ASGI has it; the innermost middleware.

    Starlette takes the prefix off again. If the path came without, Starlette would take off a segment that
    only looks like the prefix.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        prefix = scope.get("root_path", "")
        if scope["type"] != "http" or not prefix:
            await self._app(scope, receive, send)
            return
        token = _prefix.set(prefix)
        whole = {**scope, "path": prefix + scope["path"]}
        try:
            await self._app(whole, receive, send)
        finally:
            _prefix.reset(token)
            if "route" in whole:
                scope["route"] = whole["route"]  # the log names it


def url_path(path: str) -> str:
    """Return the path by which the client of the present request reaches a path of the service."""
    return _prefix.get() + path
