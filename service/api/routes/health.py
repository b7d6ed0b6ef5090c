"""GET /livez and GET /readyz, probes for the program that starts and restarts the process; GET /version."""

from fastapi import APIRouter

from service.api.about import API_VERSION, program_version, schema_version
from service.api.problems import responses
from service.api.routes.dependencies import AnyReadiness, AnyServing, Expiries
from service.api.schemas.health import HeldExpiry, Status, Storage, Versions
from service.errors import NotReady

router = APIRouter(tags=["operations"])


@router.get("/livez", response_model_exclude_none=True)
async def livez() -> Status:
    """Answer 200 as soon as the process listens."""
    return Status(status="alive")


@router.get("/readyz", response_model_exclude_none=True, responses=responses(503))
async def readyz(serving: AnyServing, readiness: AnyReadiness, expiry: Expiries) -> Status:
    """Answer 200 if the network and the index are loaded and the database answers, else why not."""
    generation = serving.current()
    usage = await readiness.require()
    return Status(
        status="ready",
        model_version=generation.version,
        runtime=generation.embedder.runtime,
        num_items=len(generation.index),
        storage=Storage.of(usage),
        held_expiry=None if expiry.hold is None else HeldExpiry.of(expiry.hold),
    )


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
