"""Whom the API answers in a browser: pages of this service, at hosts that this service has.

A browser sends a request wherever a page tells it to, also to a service that only this machine can reach. So
a page of any site could enrol, search or swap a network in the browser of an operator.
"""

import re
from collections.abc import Collection
from socket import inet_aton
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import http_problem, service_problem
from service.api.rules import PUBLIC_FOLDERS
from service.errors import ForeignOrigin, UnknownHost
from service.settings import Settings

LOOPBACK = frozenset({"localhost", "::1"})
PROBES = ("/livez", "/readyz")
"""Paths that any host may ask, because orchestrators probe them by an address."""

READING = ("GET", "HEAD", "OPTIONS")
OWN_SITES = ("same-origin", "none")
"""Values of Sec-Fetch-Site for a request by a page of this service, and for one by no page at all."""

HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^][:@/\\?#\s]+))(?::\d{0,5})?")

NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
DOCS_PAGE = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The policy of /docs, whose HTML starts its script inline."""


class SafeHeaders:
    """Adds to every answer what keeps pages of other sites from framing, embedding and guessing it.

    Answers also stay in no cache, because they name people. The files of the page are the same for everybody.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "no-referrer")
                headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
                is_page = headers.get("content-type", "").startswith("text/html")
                headers.setdefault("Content-Security-Policy", DOCS_PAGE if is_page else NO_PAGE)
                if not scope["path"].startswith(PUBLIC_FOLDERS):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, send_safely)


class KnownHosts:
    """Answers 421 to a request for a host that this service does not have, and 400 to one without a host.

    A site can give its own name the address of this service (DNS rebinding). To the browser, the page of the
    site and the service are then of one origin. Only the header Host tells the name.

    Args:
        app: the wrapped app.
        settings: the settings, which name the hosts.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = hosts_of(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        request_id, sent = scope["state"]["request_id"], Headers(scope=scope).getlist("host")
        if len(sent) != 1:
            answer = http_problem(request_id, 400, f"the request has {len(sent)} headers Host, and needs one")
            await answer(scope, receive, send)
        elif not is_known(sent[0], self._hosts):
            await service_problem(request_id, UnknownHost(sent[0]))(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class OwnOrigin:
    """Answers 403 to a request that changes something, or that brings a form, for a page of another origin.

    Args:
        app: the wrapped app.
        cors_origins: other origins whose pages may use the API.
    """

    def __init__(self, app: ASGIApp, cors_origins: Collection[str]) -> None:
        self._app = app
        self._cors_origins = cors_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        is_foreign = (
            scope["type"] == "http"
            and scope["method"] not in READING
            and self._is_foreign(Headers(scope=scope))
        )
        if is_foreign:
            await service_problem(scope["state"]["request_id"], ForeignOrigin())(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_foreign(self, headers: Headers) -> bool:
        origins = headers.getlist("origin")
        if len(origins) == 1 and origins[0] in self._cors_origins:
            return False
        sites = headers.getlist("sec-fetch-site")
        own = all(is_own(origin, headers.get("host", "")) for origin in origins)
        return not own or not all(site.lower() in OWN_SITES for site in sites)


def hosts_of(settings: Settings) -> frozenset[str]:
    """Return the hosts of a service: loopback, the address that it is bound to, and those of the settings."""
    return LOOPBACK | {settings.host.lower(), *settings.allowed_hosts}


def is_known(sent: str, hosts: Collection[str]) -> bool:
    """Return whether a header Host names one of these hosts, at any port, or an IPv4 address of loopback.

    Args:
        sent: the header.
        hosts: names and addresses in small letters; `*.example.org` stands for all names below, `*` for all.

    >>> is_known("LocalHost:8000", {"localhost"}), is_known("[::1]:80", {"::1"}), is_known("evil", {"::1"})
    (True, True, False)
    >>> is_known("a.b.org", {"*.b.org"}), is_known("b.org", {"*.b.org"}), is_known("::1:1@evil", {"::1"})
    (True, False, False)
    >>> is_known("127.1:80", {"door"}), is_known("0x7f.1", {"door"}), is_known("10.0.0.1", {"door"})
    (True, True, False)
    """
    found = HOST.fullmatch(sent.lower())
    if found is None:
        return False
    name = found["v6"] or found["name"].rstrip(".")
    parents = name.split(".")
    below = {"*." + ".".join(parents[start:]) for start in range(1, len(parents))}
    return not below.isdisjoint(hosts) or name in hosts or "*" in hosts or _is_loopback(name)


def _is_loopback(name: str) -> bool:
    """Return whether a name is an address that reaches this machine, such as 127.1 or 0.0.0.0.

    No other site can have an address of loopback as its name.
    """
    try:
        return inet_aton(name)[0] in (0, 127)
    except (OSError, UnicodeError):
        return False


def is_own(origin: str, host: str) -> bool:
    """Return whether an origin has the host and port of the header Host.

    The scheme is not compared, because a proxy may speak TLS for this service. A port is left out where it is
    the one of the scheme.

    >>> is_own("http://door:8000", "door:8000"), is_own("https://door", "door:443"), is_own("null", "null")
    (True, True, False)
    >>> is_own("http://evil", "door"), is_own("http://door:8001", "door:8000")
    (False, False)
    """
    try:
        parsed = urlsplit(origin.lower())
        own_port = {"http": 80, "https": 443}[parsed.scheme]
        host_parsed = urlsplit(f"//{host.lower()}")
        ports = parsed.port or own_port, host_parsed.port or own_port
    except (KeyError, ValueError):
        return False
    return bool(parsed.hostname) and parsed.hostname == host_parsed.hostname and ports[0] == ports[1]
