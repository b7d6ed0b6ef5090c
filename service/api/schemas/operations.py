"""Bodies of requests and answers about merges, splits, relabels and rejections."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.gallery.metadata import Name, OptionalIdentityName
from service.store.tables import Operation

MAX_ITEMS = 1_000
ItemIds = Annotated[list[Annotated[Name, Field(max_length=64)]], Field(min_length=1, max_length=MAX_ITEMS)]


class MergeOrder(BaseModel):
    """The identities whose items are given to another; they are done away with."""

    model_config = ConfigDict(extra="forbid")

    source_ids: Annotated[list[Name], Field(min_length=1, max_length=MAX_ITEMS)]


class SplitOrder(BaseModel):
    """The items that leave an identity, and to whom they go: by default to a new one of their own."""

    model_config = ConfigDict(extra="forbid")

    item_ids: ItemIds
    identity_id: OptionalIdentityName = None


class RejectOrder(BaseModel):
    """The items that do not show an identity."""

    model_config = ConfigDict(extra="forbid")

    item_ids: ItemIds


class OperationFields(BaseModel):
    """What was corrected; POST /operations/{id}/undo takes it back."""

    operation_id: str
    kind: Literal["merge", "split", "relabel", "reject"]
    created_at: datetime
    undone_at: datetime | None

    @classmethod
    def of(cls, operation: Operation) -> "OperationFields":
        """Show an operation."""
        return cls.model_validate(
            {
                "operation_id": operation.id,
                "kind": operation.kind,
                "created_at": operation.created_at,
                "undone_at": operation.undone_at,
            }
        )


class OperationAnswer(OperationFields):
    """One operation."""

    request_id: str


class OperationPage(BaseModel):
    """How much of a list to give, and how far it was read before."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    cursor: Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")] = ""


class OperationsAnswer(BaseModel):
    """One page of a list, the newest first; the last one has no `next_cursor`."""

    request_id: str
    operations: list[OperationFields]
    next_cursor: str | None
