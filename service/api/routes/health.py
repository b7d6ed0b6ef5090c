"""GET /livez and GET /readyz: probes for the program that starts and restarts the process."""

from fastapi import APIRouter

from service.api.problems import responses
from service.api.routes.dependencies import AnyReadiness, AnyServing, Expiries
from service.api.schemas.health import HeldExpiry, Status

router = APIRouter(tags=["operations"])


@router.get("/livez", response_model_exclude_none=True)
async def livez() -> Status:
    """Answer 200 as soon as the process listens."""
    return Status(status="alive")


@router.get("/readyz", response_model_exclude_none=True, responses=responses(503))
async def readyz(serving: AnyServing, readiness: AnyReadiness, expiry: Expiries) -> Status:
    """Answer 200 if the network and the index are loaded and the database answers, else why not."""
    generation = serving.current()
    await readiness.require()
    return Status(
        status="ready",
        model_version=generation.version,
        runtime=generation.embedder.runtime,
        num_items=len(generation.index),
        held_expiry=None if expiry.hold is None else HeldExpiry.of(expiry.hold),
    )
