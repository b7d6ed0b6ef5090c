"""What endpoints take from the app and from the request; async, so that none waits for a worker thread."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Annotated

from fastapi import Depends, Request

from service.errors import Fault, InvalidRequest
from service.errors.requests import NUM_SUMMARISED
from service.people.expiry import Expiry
from service.serving.serving import Serving
from service.store.store import Store

MAX_SHOWN = 64


async def serving_of(request: Request) -> Serving:
    """Return what requests share."""
    serving: Serving = request.app.state.serving
    return serving


async def ready_serving_of(request: Request) -> Serving:
    """Return what requests share, once there is a generation.

    Raises:
        NotReady: while the first one is loading.
    """
    serving = await serving_of(request)
    serving.current()
    return serving


async def ready_store_of(request: Request) -> Store:
    """Return the store, once there is a generation.

    Raises:
        NotReady: while the first generation is loading.
    """
    return (await ready_serving_of(request)).store


async def open_store_of(request: Request) -> Store:
    """Return the store, once its tables are up to date, even if the active network cannot be loaded.

    Raises:
        NotReady: while the database is being opened.
    """
    serving = await serving_of(request)
    if not serving.store.is_open:
        serving.current()
    return serving.store


async def expiry_of(request: Request) -> Expiry:
    """Return the expiries of this process."""
    expiry: Expiry = request.app.state.expiry
    return expiry


async def request_id_of(request: Request) -> str:
    """Return the id of this request, as in its X-Request-ID header."""
    return str(request.state.request_id)


async def refuse_unknown_fields(request: Request) -> None:
    """Let no query parameter and no field of a form pass that the endpoint does not have.

    A misspelt one would otherwise do something else than was meant: search all cameras, or delete and not
    erase. What an endpoint has is read from the OpenAPI document. JSON bodies are checked by their models.

    Raises:
        InvalidRequest: naming each field, and the one that it is most like.
    """
    document = request.app.openapi()
    operation = document["paths"][request.scope["route"].path_format][request.method.lower()]
    parameters = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
    faults = _unknown("query", request.query_params, parameters)
    form = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data")
    if form is not None:
        schema = document["components"]["schemas"][form["schema"]["$ref"].rpartition("/")[2]]
        faults += _unknown("body", await request.form(), schema["properties"])
    if faults:
        raise InvalidRequest(*faults, detail="; ".join(fault.msg for fault in faults[:NUM_SUMMARISED]))


def _unknown(where: str, names: Iterable[str], known: Collection[str]) -> list[Fault]:
    """Return a fault for each name that is not known.

    >>> [fault.msg for fault in _unknown("query", ["mod", "limit"], ["mode", "limit"])]
    ['there is no field mod; is mode meant?']
    """
    return [
        Fault(
            (where, name[:MAX_SHOWN]),
            f"there is no field {name[:MAX_SHOWN]}" + _hint(name, known),
            "extra_forbidden",
        )
        for name in dict.fromkeys(names)
        if name not in known
    ]


def _hint(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name[:MAX_SHOWN], known, n=1)
    if near:
        return f"; is {near[0]} meant?"
    return f"; there are {', '.join(known)}" if known else " here, nor any other"


AnyServing = Annotated[Serving, Depends(serving_of)]
ReadyServing = Annotated[Serving, Depends(ready_serving_of)]
ReadyStore = Annotated[Store, Depends(ready_store_of)]
OpenStore = Annotated[Store, Depends(open_store_of)]
Expiries = Annotated[Expiry, Depends(expiry_of)]
RequestId = Annotated[str, Depends(request_id_of)]
