"""GET /livez and /readyz, for whoever keeps the process running."""

from fastapi import APIRouter

from service.api.problems import responses
from service.api.routes.dependencies import AnyServing, Expiries
from service.api.schemas.health import HeldExpiry, Status

router = APIRouter(tags=["operations"])


@router.get("/livez", response_model_exclude_none=True)
async def livez() -> Status:
    """Answer as soon as the process serves."""
    return Status(status="alive")


@router.get("/readyz", response_model_exclude_none=True, responses=responses(503))
async def readyz(serving: AnyServing, expiry: Expiries) -> Status:
    """Answer 200 once the network has embedded an image and the index is loaded, else why not."""
    generation = serving.current()
    return Status(
        status="ready",
        model_version=generation.version,
        runtime=generation.embedder.runtime,
        num_items=len(generation.index),
        held_expiry=None if expiry.hold is None else HeldExpiry.of(expiry.hold),
    )
