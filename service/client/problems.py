"""What an answer says: a JSON object, or why the service has refused."""

from typing import Any

import httpx

from service.client.errors import Refused

PROXY_SAYS = {
    413: "a proxy on the way to the service refuses so large a request; raise its limit, which is "
    "client_max_body_size in nginx",
    502: "the proxy on the way gets no answer from the service; look whether the service runs",
    504: "the service took longer than the proxy waits, and may have carried the request out; raise the "
    "limit, which is proxy_read_timeout in nginx",
}
"""What a status without a problem document means. The service itself sends one with each error."""


def read_answer(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object that the service answered with.

    Raises:
        Refused: the service answered with an error.
    """
    body = read_json(response)
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


def read_json(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of a response; an empty one if it has none."""
    try:
        body = response.json() if response.content else {}
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {"body": body}
