"""The connection pool of a client: through the proxy of the environment, but never to this machine itself."""

import ipaddress
import socket
from typing import Any, TypeVar

import httpx

Pool = TypeVar("Pool", httpx.Client, httpx.AsyncClient)

FORM = "write it as http://host:8000, or https://host/path behind a proxy that has TLS"


def open_http(url: str, **options: Any) -> httpx.Client:
    """Open a connection pool to a service.

    HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY hold as usual. A proxy cannot reach the loopback of this
    machine, so requests to 127.0.0.0/8, ::1 and localhost go without one.

    Args:
        url: of the service.
        options: what `httpx.Client` takes besides.

    Raises:
        ValueError: `url` is not a URL, or the environment names a proxy that cannot be used.
    """
    return _open(httpx.Client, url, options)


def open_async_http(url: str, **options: Any) -> httpx.AsyncClient:
    """Open a connection pool for an event loop; otherwise as `open_http`."""
    return _open(httpx.AsyncClient, url, options)


def _open(kind: type[Pool], url: str, options: dict[str, Any]) -> Pool:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ValueError(f"{url} is not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ValueError(f"{url!r} is not the URL of a service; {FORM}")
    if is_loopback(parsed.host):
        options["trust_env"] = False
        if parsed.scheme == "https":
            options["verify"] = httpx.create_ssl_context()  # SSL_CERT_FILE still holds
    try:
        return kind(base_url=url, **options)
    except (httpx.InvalidURL, ImportError, OSError, ValueError) as error:
        reason = str(error).partition(". ")[0]
        variables = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY"
        raise ValueError(f"no connection to {url}: {variables} cannot be used: {reason}") from error


def is_loopback(host: str) -> bool:
    """Tell whether the host of a URL is this machine.

    >>> [is_loopback(host) for host in ("127.0.0.1", "127.1", "::1", "localhost", "LOCALHOST.", "0.0.0.0")]
    [True, True, True, True, True, True]
    >>> [is_loopback(host) for host in ("::ffff:127.0.0.1", "10.0.0.1", "localhost.example", "")]
    [True, False, False, False]
    """
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address: Any = ipaddress.ip_address(name)
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(name))  # short forms, such as 127.1
        except OSError:
            return False
    address = getattr(address, "ipv4_mapped", None) or address
    return bool(address.is_loopback or address.is_unspecified)
