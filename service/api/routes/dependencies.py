"""Dependencies of the endpoints; they are async functions, so that none waits for a worker thread."""

from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from typing import Annotated

from anyio import from_thread
from fastapi import Depends, Request

from service.api.cursors import Cursors
from service.api.readiness import Readiness
from service.errors import ClientGone, Fault, InvalidRequest
from service.errors.requests import NUM_SUMMARISED
from service.keys.callers import Caller
from service.people.expiry import Expiry
from service.serving.serving import Serving
from service.store.store import Store

MAX_SHOWN = 64
"""Characters of an unknown field's name that an error repeats."""


async def serving_of(request: Request) -> Serving:
    """Return the `Serving` of the app, which all requests share."""
    serving: Serving = request.app.state.serving
    return serving


async def readiness_of(request: Request) -> Readiness:
    """Return the object that asks the database whether it answers."""
    readiness: Readiness = request.app.state.readiness
    return readiness


async def ready_serving_of(request: Request) -> Serving:
    """Return the `Serving` of the app, which must have loaded a generation.

    Raises:
        NotReady: the first generation is being loaded, or could not be loaded.
    """
    serving = await serving_of(request)
    serving.current()
    return serving


async def ready_store_of(request: Request) -> Store:
    """Return the store of the app, which must have loaded a generation.

    Raises:
        NotReady: the first generation is being loaded, or could not be loaded.
    """
    return (await ready_serving_of(request)).store


async def open_store_of(request: Request) -> Store:
    """Return the store of the app, whose tables must be up to date; a generation need not be loaded.

    Raises:
        NotReady: the database is being opened.
    """
    serving = await serving_of(request)
    require_open(serving)
    return serving.store


def require_open(serving: Serving) -> None:
    """Check that the tables are up to date.

    Raises:
        NotReady: the database is being opened, or cannot be opened.
    """
    if not serving.store.is_open:
        serving.current()


async def client_check_of(request: Request) -> Callable[[], None]:
    """Return a function for the thread of an endpoint, which raises ClientGone once the client has gone."""

    def check_client() -> None:
        if from_thread.run(request.is_disconnected):
            raise ClientGone

    return check_client


async def expiry_of(request: Request) -> Expiry:
    """Return the expiries of this process."""
    expiry: Expiry = request.app.state.expiry
    return expiry


async def cursors_of(request: Request) -> Cursors:
    """Return what writes and reads the cursors of the list that is asked for."""
    cursors: Cursors = request.app.state.cursors
    return cursors.of_list(request.scope["route"].path_format)


async def caller_of(request: Request) -> Caller:
    """Return who sends this request; `Access` has found out."""
    caller: Caller = request.state.caller
    return caller


async def request_id_of(request: Request) -> str:
    """Return the id of this request, as in its X-Request-ID header."""
    return str(request.state.request_id)


async def refuse_unknown_fields(request: Request) -> None:
    """Refuse a request with a query parameter or form field that the endpoint does not have.

    If unknown fields were ignored, a misspelt `camera_id` would search all cameras, and a misspelt `mode`
    would delete without erasing. The fields of the endpoint are read from the OpenAPI document. JSON bodies
    are checked by their models.

    Raises:
        InvalidRequest: the body is no form, or some fields are unknown. The error names each of these, with
            the most similar field.
    """
    document = request.app.openapi()
    operation = document["paths"][request.scope["route"].path_format][request.method.lower()]
    parameters = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
    faults = _unknown("query", request.query_params, parameters)
    content = operation.get("requestBody", {}).get("content", {})
    form = content.get("multipart/form-data")
    is_of_other_kind = kind_of(request) in content.keys() - {"multipart/form-data"}
    if form is not None and not is_of_other_kind:
        schema = document["components"]["schemas"][form["schema"]["$ref"].rpartition("/")[2]]
        fields, known = await request.form(), schema["properties"]
        _require_form(kind_of(request), has_known=not known.keys().isdisjoint(fields))
        faults += _unknown("body", fields, known)
    if faults:
        raise InvalidRequest(*faults, detail="; ".join(fault.msg for fault in faults[:NUM_SUMMARISED]))


def kind_of(request: Request) -> str:
    """Return the type of the body of a request, without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _require_form(kind: str, *, has_known: bool) -> None:
    """Refuse a body that has another type than a form, because its fields would all count as missing.

    `curl --data-binary @crop.jpg` calls an image a urlencoded form, whose one field no endpoint knows.
    """
    if kind not in ("", "multipart/form-data") and not has_known:
        reason = f"the body is {kind[:MAX_SHOWN]}; send its fields as a form, multipart/form-data"
        raise InvalidRequest(Fault(("header", "content-type"), reason), detail=reason)


def _unknown(where: str, names: Iterable[str], known: Collection[str]) -> list[Fault]:
    """Return a fault for each name that is not known, the first with a hint.

    >>> [fault.msg for fault in _unknown("query", ["mod", "limit"], ["mode", "limit"])]
    ['there is no field mod; did you mean mode?']
    """
    unknown = [name[:MAX_SHOWN] for name in dict.fromkeys(names) if name not in known]
    return [
        Fault(
            (where, name),
            f"there is no field {name}" + (_hint(name, known) if place < NUM_SUMMARISED else ""),
            "extra_forbidden",
        )
        for place, name in enumerate(unknown)
    ]


def _hint(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name[:MAX_SHOWN], known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; the fields are {', '.join(known)}" if known else "; this request takes no query parameters"


AnyReadiness = Annotated[Readiness, Depends(readiness_of)]
AnyServing = Annotated[Serving, Depends(serving_of)]
ReadyServing = Annotated[Serving, Depends(ready_serving_of)]
ReadyStore = Annotated[Store, Depends(ready_store_of)]
OpenStore = Annotated[Store, Depends(open_store_of)]
AnyCaller = Annotated[Caller, Depends(caller_of)]
CheckClient = Annotated[Callable[[], None], Depends(client_check_of)]
AnyCursors = Annotated[Cursors, Depends(cursors_of)]
Expiries = Annotated[Expiry, Depends(expiry_of)]
RequestId = Annotated[str, Depends(request_id_of)]
