"""GET /livez and GET /readyz, probes for the program that starts and restarts the process; GET /version."""

from fastapi import APIRouter, Request

from service.api.about import API_VERSION, program_version, schema_version
from service.api.access import Callers
from service.api.problems import responses
from service.api.routes.dependencies import AnyReadiness, AnyServing, Expiries
from service.api.schemas.health import HeldExpiry, Status, Storage, Versions
from service.errors import KeyInvalid, KeyRequired, NotReady
from service.keys.callers import Caller

router = APIRouter(tags=["operations"])


@router.get("/livez", response_model_exclude_none=True)
async def livez() -> Status:
    """Answer 200 as soon as the process listens."""
    return Status(status="alive")


@router.get("/readyz", response_model_exclude_none=True, responses=responses(503))
async def readyz(request: Request, serving: AnyServing, readiness: AnyReadiness, expiry: Expiries) -> Status:
    """Answer 200 if the network and the index are loaded and the database answers, else why not.

    A probe needs no key. What is loaded is told to a caller with a key; how many items there are, the room on
    the disk and an expiry that waits, to one who is not limited to cameras.
    """
    generation = serving.current()
    usage = await readiness.require()
    caller = await _known_caller(request)
    if caller is None:
        return Status(status="ready")
    status = Status(status="ready", model_version=generation.version, runtime=generation.embedder.runtime)
    if caller.cameras is None:
        status.num_items = len(generation.index)
        status.storage = Storage.of(usage)
        status.held_expiry = None if expiry.hold is None else HeldExpiry.of(expiry.hold)
    return status


async def _known_caller(request: Request) -> Caller | None:
    callers: Callers = request.app.state.callers
    try:
        return await callers.of(request.scope)
    except (KeyRequired, KeyInvalid):
        return None


@router.get("/version")
async def get_version(serving: AnyServing) -> Versions:
    """Say which versions answer; `model_version` is null until a network is loaded."""
    try:
        model_version = serving.current().version
    except NotReady:
        model_version = None
    return Versions(
        program=program_version(),
        api=API_VERSION,
        schema_version=schema_version(),
        model_version=model_version,
    )
