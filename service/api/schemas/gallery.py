"""Bodies of requests and answers about gallery items."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field

from service.api.proxies import url_path
from service.api.schemas.pages import Page
from service.api.schemas.strict import StrictModel
from service.gallery.ages import Warned, WarningCode
from service.gallery.enrolment import Enrolment
from service.gallery.metadata import OptionalIdentityName, OptionalName, OptionalTime
from service.gallery.selection import Selection
from service.store.tables import Item


class Correction(StrictModel):
    """The fields of an item to change. Absent fields stay as they are; null clears a field."""

    identity_id: OptionalIdentityName = None
    camera_id: OptionalName = None
    captured_at: OptionalTime = None
    track_id: OptionalName = None


class SelectionFields(Selection):
    """Which items are selected, by the filters of a search. An item must pass every filter that is given."""


class DeletionOrder(StrictModel):
    """Which items to delete. Nothing is deleted if their number is not `expected_count`."""

    filter: SelectionFields
    dry_run: bool = False
    expected_count: Annotated[int | None, Field(ge=0)] = None
    """Required unless `dry_run` is true: the number of items that a dry run has counted."""


class DeletionAnswer(BaseModel):
    """How many items pass the filter, and whether they were deleted."""

    request_id: str
    num_items: int
    deleted: bool


class GalleryItem(BaseModel):
    """An enrolled crop.

    `width` and `height` are in pixels of the upright image. `sha256` is of the bytes as they were posted.
    """

    id: str
    identity_id: str
    camera_id: str | None
    captured_at: datetime | None
    track_id: str | None
    created_at: datetime
    sha256: str
    width: int
    height: int
    duplicate_of: str | None
    model_version: str
    image_url: str | None
    """None if the crop is not kept."""

    @classmethod
    def of(cls, item: Item, model_version: str, **more: Any) -> Self:
        """Return the fields of an item, and `more` fields of a subclass."""
        return cls(
            id=item.id,
            identity_id=item.identity.id,
            camera_id=item.camera_id,
            captured_at=item.captured_at,
            track_id=item.track_id,
            created_at=item.created_at,
            sha256=item.sha256,
            width=item.width,
            height=item.height,
            duplicate_of=item.duplicate_of,
            model_version=model_version,
            image_url=image_url(item),
            **more,
        )


class EnrolledItem(GalleryItem):
    """An item of an enrolment; `is_new` is false if the item was in the gallery already."""

    is_new: bool


class ItemWarning(BaseModel):
    """What is doubtful about an item that was taken: the place and the name of its image, and what to do."""

    position: int
    name: str
    code: WarningCode
    detail: str


class EnrolmentAnswer(BaseModel):
    """The items of an enrolment, in the order of the images, and what is doubtful about them."""

    request_id: str
    model_version: str
    items: list[EnrolledItem]
    warnings: list[ItemWarning]

    @classmethod
    def of(cls, enrolment: Enrolment, warned: Sequence[Warned], request_id: str) -> "EnrolmentAnswer":
        """Return the answer to an enrolment."""
        version = enrolment.model_version
        shown = [
            EnrolledItem.of(item, version, is_new=is_new)
            for item, is_new in zip(enrolment.items, enrolment.are_new, strict=True)
        ]
        warnings = [ItemWarning(**vars(one)) for one in warned]
        return cls(request_id=request_id, model_version=version, items=shown, warnings=warnings)


class ItemAnswer(GalleryItem):
    """One item."""

    request_id: str


class ItemPage(Page, Selection):
    """The query parameters of a list of items: filters, and a page."""

    embeddings: Annotated[bool, Field(description="Return the embedding of each item too.")] = False


class ListedItem(GalleryItem):
    """An item of a list; `embedding`, if asked for, is base64 of little-endian float16."""

    embedding: str | None = None


class ItemsAnswer(BaseModel):
    """A page of items, in the order of enrolment; `next_cursor` is null on the last page."""

    request_id: str
    items: list[ListedItem]
    next_cursor: str | None

    @classmethod
    def of(
        cls,
        items: Sequence[Item],
        next_cursor: str | None,
        model_version: str,
        request_id: str,
        embeddings: Mapping[int, bytes] | None = None,
    ) -> "ItemsAnswer":
        """Return the answer for a page of items.

        Args:
            items: the items of the page.
            next_cursor: the cursor of the next page, or None on the last page.
            model_version: the active model version.
            request_id: the id of the request.
            embeddings: the float16 values of the embeddings by slot, or None if they were not asked for.
        """
        shown = [ListedItem.of(item, model_version) for item in items]
        if embeddings is not None:
            for one, item in zip(shown, items, strict=True):
                values = embeddings.get(item.slot)
                one.embedding = None if values is None else b64encode(values).decode()
        return cls(request_id=request_id, items=shown, next_cursor=next_cursor)


class CorrectionAnswer(GalleryItem):
    """The corrected item. If its identity has changed, the operation `operation_id` can be undone."""

    request_id: str
    operation_id: str | None
    warnings: list[ItemWarning]


def image_url(item: Item) -> str | None:
    """Return the path of an item's image, or None if the crop is not kept."""
    return url_path(f"/gallery/{item.id}/image") if item.has_crop else None
