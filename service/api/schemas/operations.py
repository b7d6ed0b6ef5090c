"""Bodies of requests and answers about merges, splits, relabels and rejections."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field

from service.api.schemas.pages import Limit
from service.api.schemas.strict import StrictModel
from service.gallery.metadata import Name, OptionalIdentityName, SoughtName
from service.store.tables import Operation

MAX_ITEMS = 1_000
ItemIds = Annotated[list[Annotated[Name, Field(max_length=64)]], Field(min_length=1, max_length=MAX_ITEMS)]


class MergeOrder(StrictModel):
    """The identities to merge into another one. That one gets all their items, and these are deleted."""

    source_ids: Annotated[list[SoughtName], Field(min_length=1, max_length=MAX_ITEMS)]


class SplitOrder(StrictModel):
    """The items that leave an identity, and the identity that gets them, by default a new one."""

    item_ids: ItemIds
    identity_id: OptionalIdentityName = None


class RejectOrder(StrictModel):
    """The items that do not show an identity."""

    item_ids: ItemIds


class OperationFields(BaseModel):
    """A correction, which POST /operations/{id}/undo can undo."""

    operation_id: str
    kind: Literal["merge", "split", "relabel", "reject"]
    created_at: datetime
    undone_at: datetime | None

    @classmethod
    def of(cls, operation: Operation, **more: Any) -> Self:
        """Return the fields of an operation, and `more` fields of a subclass."""
        return cls.model_validate(
            {
                "operation_id": operation.id,
                "kind": operation.kind,
                "created_at": operation.created_at,
                "undone_at": operation.undone_at,
                **more,
            }
        )


class OperationAnswer(OperationFields):
    """One operation."""

    request_id: str


class OperationPage(StrictModel):
    """The query parameters of a list of operations; its cursor is the id of an operation."""

    limit: Limit = 100
    cursor: Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")] = ""


class OperationsAnswer(BaseModel):
    """A page of operations, the newest first; `next_cursor` is null on the last page."""

    request_id: str
    operations: list[OperationFields]
    next_cursor: str | None
