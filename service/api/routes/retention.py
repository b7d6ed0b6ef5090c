"""/retention: how long items are kept, and the expiry that waits until a person confirms it."""

from fastapi import APIRouter

from service.api.problems import responses
from service.api.routes.dependencies import ReadyStore, RequestId
from service.api.schemas.retention import (
    Confirmation,
    ConfirmationAnswer,
    HeldItems,
    RetentionAnswer,
)
from service.people.expiry import confirm, find_hold

router = APIRouter(prefix="/retention", tags=["operations"])


@router.get("", responses=responses(422, 503))
def get_retention(store: ReadyStore, request_id: RequestId) -> RetentionAnswer:
    """Say how long items are kept, and which expiry waits for a confirmation."""
    hold, settings = find_hold(store), store.settings
    return RetentionAnswer(
        request_id=request_id,
        retention_days=settings.retention_days,
        retention_days_by_camera=settings.retention_days_by_camera,
        retention_max_share=settings.retention_max_share,
        held=None if hold is None else HeldItems.of(hold),
    )


@router.post("/confirm", responses=responses(400, 409, 413, 422, 503))
def post_confirmation(
    confirmation: Confirmation, store: ReadyStore, request_id: RequestId
) -> ConfirmationAnswer:
    """Let an expiry go on that waits: erase what was past its retention as of `as_of`."""
    num_items = confirm(store, confirmation.as_of)
    return ConfirmationAnswer(request_id=request_id, as_of=confirmation.as_of, num_items=num_items)
