"""Bodies of requests and answers about retention."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel

from service.api.schemas.strict import StrictModel
from service.gallery.metadata import Time
from service.people.expiry import Hold, Reason


class HeldItems(BaseModel):
    """An expiry that waits: `num_items` of the `num_gallery` items are past their retention as of `as_of`."""

    reason: Reason
    since: datetime
    as_of: datetime
    num_items: int
    num_gallery: int
    detail: str

    @classmethod
    def of(cls, hold: Hold) -> Self:
        """Show an expiry that waits."""
        return cls(**vars(hold), detail=str(hold))


class RetentionAnswer(BaseModel):
    """The limits of the settings, in days, and the expiry that waits for a person, if one does."""

    request_id: str
    retention_days: float | None
    retention_days_by_camera: dict[str, float]
    retention_max_share: float
    held: HeldItems | None


class Confirmation(StrictModel):
    """What is confirmed: the items that were past their retention as of the `as_of` of GET /retention."""

    as_of: Time


class ConfirmationAnswer(BaseModel):
    """How many items are erased now that a person has said so."""

    request_id: str
    as_of: datetime
    num_items: int
