"""Bodies of requests and answers about merges, splits, relabels and rejections."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field

from service.api.schemas.pages import Limit
from service.api.schemas.strict import StrictModel
from service.gallery.metadata import Name, OptionalIdentityName, OptionalSoughtName, SoughtName
from service.people.operations import Told

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


class MovedItemFields(BaseModel):
    """An item that went from one identity to another, which are named as they were then."""

    item_id: str
    from_id: str | None
    to_id: str | None


class OperationFields(BaseModel):
    """A correction, which POST /operations/{id}/undo can undo.

    `by` and `undone_by` are names of keys, and null without keys. `identities` are those that it made,
    changed or deleted. Of the `num_items` that it moved and that are still there, `items` has the first 100.
    """

    operation_id: str
    kind: Literal["merge", "split", "relabel", "reject"]
    created_at: datetime
    undone_at: datetime | None
    by: str | None
    undone_by: str | None
    identities: list[str]
    num_items: int
    items: list[MovedItemFields]

    @classmethod
    def of(cls, told: Told, **more: Any) -> Self:
        """Return the fields of an operation, and `more` fields of a subclass."""
        operation = told.row
        return cls.model_validate(
            {
                "operation_id": operation.id,
                "kind": operation.kind,
                "created_at": operation.created_at,
                "undone_at": operation.undone_at,
                "by": told.by,
                "undone_by": told.undone_by,
                "identities": told.identities,
                "num_items": told.num_items,
                "items": [vars(item) for item in told.items],
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
    identity_id: Annotated[
        OptionalSoughtName, Field(description="Only operations that have made or changed this identity.")
    ] = None


class OperationsAnswer(BaseModel):
    """A page of operations, the newest first; `next_cursor` is null on the last page."""

    request_id: str
    operations: list[OperationFields]
    next_cursor: str | None
