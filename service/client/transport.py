"""HTTP requests to one service, repeated only if the service has not carried them out.

A request is repeated a few times if no connection could be made, or if the service is busy (503). While the
service starts, and while more requests come than may come in a minute (429), a request is repeated for up to
two minutes. A request that was sent and not answered is not repeated, because the service may have carried it
out: crops might be stored twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    sleep_using_event,
    stop_after_attempt,
    stop_after_delay,
    stop_when_event_set,
    wait_exponential,
    wait_random,
)

from service.client.errors import NoAnswer, Refused, ServiceUnreachable
from service.client.keys import find_key
from service.client.proxies import open_http

TIMEOUT = httpx.Timeout(120.0, connect=5.0, pool=None)
UNCONNECTED = (httpx.ConnectError, httpx.ConnectTimeout)
MAX_ATTEMPTS = 6
BACKOFF = wait_exponential(multiplier=0.5)
"""Waits 0.5, 1, 2, 4 and 8 seconds between six attempts."""

LIMITED_JITTER = wait_random(0, 0.5)
"""Added to Retry-After of a 429, so that the threads of a command do not come again all at once."""

READY_WITHIN_S = 120.0
ALLOWED_WITHIN_S = 120.0
READY_POLL_S = 0.5
MAX_RETRY_AFTER_S = 30.0
NOT_READY = "not_ready"
LASTING = frozenset(
    {
        "audit_broken",
        "crop_missing",
        "database_damaged",
        "database_replaced",
        "newer_database",
        "other_gallery",
    }
)
"""Codes of a 503 that no second request mends."""

PROXY_SAYS = {
    413: "a proxy on the way to the service refuses so large a request; raise its limit, which is "
    "client_max_body_size in nginx",
    502: "the proxy on the way gets no answer from the service; look whether the service runs",
    504: "the service took longer than the proxy waits, and may have carried the request out; raise the "
    "limit, which is proxy_read_timeout in nginx",
}
"""What a status without a problem document means. The service itself sends one with each error."""

NAME_IT = "name the URL of the service itself with --url, such as http://127.0.0.1:8000"

KEEPALIVE_EXPIRY_S = 2.0
"""Seconds after which the client closes an idle connection. The server waits 5 s, so no request goes to a
connection that the server is closing."""


class Transport:
    """A connection pool to one service, for any number of threads.

    Args:
        url: of the service, such as "http://127.0.0.1:8000".
        key: the key to send; by default that of REID_API_KEY, or else of `reid login`.

    Raises:
        ServiceUnreachable: `url` is not a URL, or the environment names a proxy that cannot be used.
        ClientError: the key cannot be read.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.strip().rstrip("/")
        key = key or find_key(self.url)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        limits = httpx.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_EXPIRY_S)
        try:
            self._http = open_http(self.url, timeout=TIMEOUT, limits=limits, headers=headers)
        except ValueError as error:
            raise ServiceUnreachable(str(error)) from error
        # Set when a request has failed to connect after all attempts; the other threads then stop waiting.
        self._is_gone = Event()
        self._until_connected = Retrying(
            retry=retry_if_exception_type(UNCONNECTED),
            wait=BACKOFF,
            stop=stop_after_attempt(MAX_ATTEMPTS) | stop_when_event_set(self._is_gone),
            sleep=sleep_using_event(self._is_gone),
            reraise=True,
        )
        self._until_accepted = Retrying(
            retry=retry_if_result(_is_busy),
            wait=_wait_while_busy,
            stop=stop_after_attempt(MAX_ATTEMPTS),
            retry_error_callback=_last_response,
        )
        self._until_allowed = Retrying(
            retry=retry_if_result(_is_limited),
            wait=_wait_while_limited,
            stop=stop_after_delay(ALLOWED_WITHIN_S),
            retry_error_callback=_last_response,
        )
        self._until_ready = Retrying(
            retry=retry_if_result(_is_starting),
            wait=_wait_while_starting,
            stop=stop_after_delay(READY_WITHIN_S),
            retry_error_callback=_last_response,
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def ping(self) -> None:
        """Send one request that tells whether the service answers.

        Raises:
            ServiceUnreachable: no connection could be made, or something else than the service answers.
            NoAnswer: the connection broke or timed out.
        """
        with self._client_errors():
            response = self._http.request("GET", "/livez")
        if response.status_code in PROXY_SAYS:
            raise ServiceUnreachable(f"{self.url}: {PROXY_SAYS[response.status_code]}")
        if not response.is_success or _read_json(response).get("status") != "alive":
            answered = f"{response.status_code} {response.reason_phrase}".strip()
            raise ServiceUnreachable(
                f"what answers at {self.url} is not the service: {self.url}/livez gave {answered}; {NAME_IT}"
            )

    def request(self, method: str, path: str, **body: Any) -> httpx.Response:
        """Send a request, repeat it if that is safe, and return the last response, which may be an error.

        Args:
            method: the HTTP method.
            path: the path below the URL of the service.
            body: further arguments of `httpx.Client.request`, such as `params` and `files`.

        Raises:
            ServiceUnreachable: no connection could be made.
            NoAnswer: the connection broke or timed out after the request was sent.
        """
        with self._client_errors():
            return self._until_ready(self._request_until_allowed, method, path, **body)

    def _request_until_allowed(self, method: str, path: str, **body: Any) -> httpx.Response:
        return self._until_allowed(self._request_until_accepted, method, path, **body)

    def _request_until_accepted(self, method: str, path: str, **body: Any) -> httpx.Response:
        return self._until_accepted(self._request_until_connected, method, path, **body)

    def _request_until_connected(self, method: str, path: str, **body: Any) -> httpx.Response:
        return self._until_connected(self._http.request, method, path, **body)

    @contextmanager
    def _client_errors(self) -> Iterator[None]:
        """Raise errors of httpx as errors of the client."""
        try:
            yield
        except UNCONNECTED as error:
            self._is_gone.set()
            if "[SSL" in str(error):
                hint = "check the certificate; if the service has no TLS, its URL begins with http://"
                raise ServiceUnreachable(f"no encrypted connection to {self.url}: {error}; {hint}") from error
            hint = "start one with `reid serve`, or name another with --url"
            raise ServiceUnreachable(f"no service answers at {self.url}; {hint}") from error
        except httpx.ProxyError as error:
            raise ServiceUnreachable(f"the proxy on the way to {self.url} refuses: {error}") from error
        except httpx.TransportError as error:
            raise NoAnswer(f"no answer from {self.url}: {error or type(error).__name__}") from error


def read_answer(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object that the service answered with.

    Raises:
        Refused: the service answered with an error.
    """
    body = _read_json(response)
    if response.is_success:
        return body
    detail = body.get("detail") or PROXY_SAYS.get(response.status_code)
    detail = detail or f"the service answered {response.status_code} {response.reason_phrase}"
    position = body.get("position")
    raise Refused(
        response.status_code,
        str(detail),
        position if isinstance(position, int) else None,
        str(body.get("code") or ""),
    )


def _read_json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json() if response.content else {}
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {"body": body}


def _is_starting(response: httpx.Response) -> bool:
    """Tell whether the service is still loading its network and index."""
    return response.status_code == httpx.codes.SERVICE_UNAVAILABLE and (
        _read_json(response).get("code") == NOT_READY
    )


def _is_busy(response: httpx.Response) -> bool:
    """Tell whether the service is too busy now; for `LASTING` codes waiting is no use."""
    return response.status_code == httpx.codes.SERVICE_UNAVAILABLE and (
        _read_json(response).get("code") not in {NOT_READY, *LASTING}
    )


def _is_limited(response: httpx.Response) -> bool:
    """Tell whether more requests came than may come in a minute."""
    return response.status_code == httpx.codes.TOO_MANY_REQUESTS


def _wait_while_busy(state: RetryCallState) -> float:
    return _retry_after_s(_last_response(state)) or BACKOFF(state)


def _wait_while_limited(state: RetryCallState) -> float:
    seconds = _retry_after_s(_last_response(state))
    return (BACKOFF(state) if seconds is None else seconds) + LIMITED_JITTER(state)


def _wait_while_starting(state: RetryCallState) -> float:
    return _retry_after_s(_last_response(state)) or READY_POLL_S


def _last_response(state: RetryCallState) -> httpx.Response:
    if state.outcome is None:
        raise AssertionError("expected an outcome after each attempt")
    response: httpx.Response = state.outcome.result()
    return response


def _retry_after_s(response: httpx.Response) -> float | None:
    """Return the seconds of the Retry-After header, at most `MAX_RETRY_AFTER_S`, or None without seconds.

    >>> _retry_after_s(httpx.Response(503, headers={"retry-after": "3"}))
    3.0
    >>> _retry_after_s(httpx.Response(503)) is None
    True
    """
    value = response.headers.get("retry-after", "")
    return min(float(value), MAX_RETRY_AFTER_S) if value.isdecimal() else None
