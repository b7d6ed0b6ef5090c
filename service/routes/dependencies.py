"""What endpoints take from the app and from the request; async, so that none waits for a worker thread."""

from typing import Annotated

from fastapi import Depends, Request

from service.serving import Serving


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


async def stored_serving_of(request: Request) -> Serving:
    """Return what requests share, once there is a database, even if the active network cannot be loaded.

    Raises:
        NotReady: while the database is being opened.
    """
    serving = await serving_of(request)
    if not serving.has_database:
        serving.current()
    return serving


async def request_id_of(request: Request) -> str:
    """Return the id of this request, as in its X-Request-ID header."""
    return str(request.state.request_id)


AnyServing = Annotated[Serving, Depends(serving_of)]
ReadyServing = Annotated[Serving, Depends(ready_serving_of)]
StoredServing = Annotated[Serving, Depends(stored_serving_of)]
RequestId = Annotated[str, Depends(request_id_of)]
