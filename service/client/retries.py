"""When a request is sent again: if that cannot do anything twice.

A request is repeated a few times if no connection could be made, or if the service is busy (503). While the
service starts, while it still does the same request (409 `idempotency_in_progress`), and while more requests
come than may come in a minute (429), a request is repeated for up to two minutes.

A request that was sent and not answered is repeated if it changes nothing, or if the service does it once
under its `Idempotency-Key`. Any other one is not, because the service may have carried it out.
"""

from collections.abc import Callable
from threading import Event
from typing import Any

import httpx
from tenacity import (
    RetryCallState,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    stop_when_event_set,
    wait_exponential,
    wait_random,
)

from service.client.problems import read_json

UNCONNECTED = (httpx.ConnectError, httpx.ConnectTimeout)
UNANSWERED = (*UNCONNECTED, httpx.NetworkError, httpx.ReadTimeout, httpx.RemoteProtocolError)
MAX_ATTEMPTS = 6
UNANSWERED_WITHIN_S = 180.0
"""A request that may be repeated is not begun again after so long."""

BACKOFF = wait_exponential(multiplier=0.5)
"""Waits 0.5, 1, 2, 4 and 8 seconds between six attempts."""

LIMITED_JITTER = wait_random(0, 0.5)
"""Added to Retry-After of a 429, so that the threads of a command do not come again all at once."""

READY_WITHIN_S = 120.0
ALLOWED_WITHIN_S = 120.0
READY_POLL_S = 0.5
MAX_RETRY_AFTER_S = 30.0
NOT_READY = "not_ready"
IN_PROGRESS = "idempotency_in_progress"
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


def repeats(is_gone: Event, *, may_repeat: bool) -> list[dict[str, Any]]:
    """Return the arguments of tenacity's `Retrying` and `AsyncRetrying`, from the innermost to the outermost.

    Args:
        is_gone: is set from when a request could not connect after all attempts until another one could; the
            others then try once.
        may_repeat: whether a request that got no answer is sent again.
    """
    stop = stop_after_attempt(MAX_ATTEMPTS) | stop_when_event_set(is_gone)
    return [
        {
            "retry": retry_if_exception_type(UNANSWERED if may_repeat else UNCONNECTED),
            "wait": BACKOFF,
            "stop": stop | stop_after_delay(UNANSWERED_WITHIN_S),
            "reraise": True,
        },
        _until(_is_busy, _wait_while_busy, stop_after_attempt(MAX_ATTEMPTS)),
        _until(_is_limited, _wait_while_limited, stop_after_delay(ALLOWED_WITHIN_S)),
        _until(_is_not_done, _wait_while_starting, stop_after_delay(READY_WITHIN_S)),
    ]


def _until(is_to_wait: Callable[[httpx.Response], bool], wait: Any, stop: Any) -> dict[str, Any]:
    return {
        "retry": retry_if_result(is_to_wait),
        "wait": wait,
        "stop": stop,
        "retry_error_callback": _last_response,
    }


def _is_not_done(response: httpx.Response) -> bool:
    """Tell whether the service still loads its network and index, or still does the same request."""
    codes = {httpx.codes.SERVICE_UNAVAILABLE: NOT_READY, httpx.codes.CONFLICT: IN_PROGRESS}
    code = codes.get(httpx.codes(response.status_code)) if response.is_error else None
    return code is not None and read_json(response).get("code") == code


def _is_busy(response: httpx.Response) -> bool:
    """Tell whether the service is too busy now; for `LASTING` codes waiting is no use."""
    return response.status_code == httpx.codes.SERVICE_UNAVAILABLE and (
        read_json(response).get("code") not in {NOT_READY, *LASTING}
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
