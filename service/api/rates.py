"""How many requests a minute may come from one address, and with one key; further ones are answered 429.

Each process counts for itself, in memory. A request whose address has sent too many is refused before its key
is looked up, so a flood of wrong keys does not reach the database.
"""

import math
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from throttled import MemoryStore, RateLimiterType, RateLimitState, Throttled, per_min

from service.api.problems import responses, service_problem
from service.errors import RateLimited

MAX_SENDERS = 65_536
"""Senders that are counted at a time. A further one takes the place of the one that has been silent longest,
so a caller of many addresses cannot fill the memory."""

WINDOW_S = 60
PROBES = frozenset({"/livez", "/readyz"})
"""Paths that are never refused, because whoever watches the service would restart it."""

IPV6_NETWORK_BITS = 64
"""An IPv6 address shares these bits with 2^64 others, and whoever has one of them has all."""


class RateLimit:
    """Answers 429 `rate_limited` to a sender who sends more requests a minute than one may.

    A sender who was silent for a minute may send the requests of a whole minute at once, and from then on one
    in each 60 s / `per_minute` (GCRA, the generic cell rate algorithm). So a border between two minutes does
    not let twice as many through, and whoever was refused waits a short time and not until a minute ends.

    Each answer has the headers RateLimit-Policy and RateLimit of draft-ietf-httpapi-ratelimit-headers-11.

    Args:
        app: the wrapped app.
        name: what is limited, "address" or "key"; the setting REID_RATE_PER_ and this name has the limit.
        per_minute: the limit.
        sender_of: returns the sender of a request, or None if the request is not counted.
        max_senders: how many senders are counted at a time.
    """

    def __init__(
        self,
        app: ASGIApp,
        name: str,
        per_minute: int,
        sender_of: Callable[[Scope], str | None],
        max_senders: int = MAX_SENDERS,
    ) -> None:
        self._app = app
        self._name = name
        self._per_minute = per_minute
        self._sender_of = sender_of
        store = MemoryStore(options={"MAX_SIZE": max_senders})
        self._counts = Throttled(using=RateLimiterType.GCRA.value, quota=per_min(per_minute), store=store)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        is_counted = scope["type"] == "http" and scope["path"] not in PROBES
        sender = self._sender_of(scope) if is_counted else None
        if sender is None:
            await self._app(scope, receive, send)
            return
        counted = self._counts.limit(sender)

        async def send_with_limit(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), counted.state)
            await send(message)

        if counted.limited:
            scope["state"]["is_refused"] = True
            error = RateLimited(self._name, self._per_minute, math.ceil(counted.state.retry_after))
            await service_problem(scope["state"]["request_id"], error)(scope, receive, send_with_limit)
        else:
            await self._app(scope, receive, send_with_limit)

    def _add_headers(self, headers: MutableHeaders, state: RateLimitState) -> None:
        """Add this limit to the headers, which may have another limit already."""
        until_s = math.ceil(state.retry_after or state.reset_after)
        _append(headers, "RateLimit-Policy", f'"{self._name}";q={self._per_minute};w={WINDOW_S}')
        _append(headers, "RateLimit", f'"{self._name}";r={state.remaining};t={until_s}')


def address_of(scope: Scope) -> str:
    """Return the address from which a request comes; for IPv6 its network."""
    return network_of(scope["client"][0])


def key_id_of(scope: Scope) -> str | None:
    """Return the id of the caller's key, or None for a caller without a key; `Access` has found out."""
    caller = scope["state"].get("caller")
    return None if caller is None else caller.key_id


def network_of(address: str) -> str:
    """Return an IPv4 address as it is, and the network of an IPv6 address.

    >>> network_of("2001:db8:0:1:2::3"), network_of("::ffff:10.0.0.1"), network_of("fe80::1%eth0")
    ('2001:db8:0:1::/64', '10.0.0.1', 'fe80::/64')
    >>> network_of("unknown")
    'unknown'
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    if parsed.version == 4:
        return str(parsed)
    return str(ip_network((parsed, IPV6_NETWORK_BITS), strict=False))


def document_rates(document: dict[str, Any]) -> None:
    """Add to the OpenAPI document that each operation but the probes may be answered 429."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path not in PROBES:
                operation["responses"].setdefault("429", responses(429)[429])


def _append(headers: MutableHeaders, name: str, item: str) -> None:
    headers[name] = f"{headers[name]}, {item}" if name in headers else item
