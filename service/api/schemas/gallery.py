"""Bodies of requests and answers about gallery items."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field

from service.api.schemas.pages import Page, cursor_of
from service.api.schemas.strict import StrictModel
from service.gallery.ages import Warned, WarningCode
from service.gallery.enrolment import Enrolment
from service.gallery.metadata import OptionalIdentityName, OptionalName, OptionalTime
from service.gallery.selection import Selection
from service.store.tables import Item


class Correction(StrictModel):
    """What to change of an item; absent fields stay, null ones are cleared."""

    identity_id: OptionalIdentityName = None
    camera_id: OptionalName = None
    captured_at: OptionalTime = None
    track_id: OptionalName = None


class SelectionFields(Selection):
    """Which items are meant, by the filters of a search; all must hold, and absent ones say nothing."""


class DeletionOrder(StrictModel):
    """Which items to delete; the count guards against deleting others than those that were meant."""

    filter: SelectionFields
    dry_run: bool = False
    expected_count: Annotated[int | None, Field(ge=0)] = None
    """Needed unless it is a dry run: what a dry run has counted."""


class DeletionAnswer(BaseModel):
    """How many items were meant, and whether they are gone."""

    request_id: str
    num_items: int
    deleted: bool


class GalleryItem(BaseModel):
    """An enrolled crop; width and height are in pixels, upright; `sha256` is of the bytes as posted."""

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
    """An item that a request has brought; if it `is_new` it was not there before."""

    is_new: bool


class ItemWarning(BaseModel):
    """What is doubtful about an item that was taken: the place and the name of its image, and what to do."""

    position: int
    name: str
    code: WarningCode
    detail: str


class EnrolmentAnswer(BaseModel):
    """The items, in the order of the images, and what is doubtful about them."""

    request_id: str
    model_version: str
    items: list[EnrolledItem]
    warnings: list[ItemWarning]

    @classmethod
    def of(cls, enrolment: Enrolment, warned: Sequence[Warned], request_id: str) -> "EnrolmentAnswer":
        """Show what has been enrolled."""
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
    """Which items to list, and how far the list was read before."""

    embeddings: Annotated[bool, Field(description="Give the embedding of each item too.")] = False


class ListedItem(GalleryItem):
    """An item of a list; `embedding`, if asked for, is base64 of float16, little endian."""

    embedding: str | None = None


class ItemsAnswer(BaseModel):
    """One page of a list, in the order of enrolment; the last one has no `next_cursor`."""

    request_id: str
    items: list[ListedItem]
    next_cursor: str | None

    @classmethod
    def of(
        cls,
        items: Sequence[Item],
        last: int | None,
        model_version: str,
        request_id: str,
        embeddings: Mapping[int, bytes] | None = None,
    ) -> "ItemsAnswer":
        """Show a page that ends with the slot `last`, with embeddings by slot if they are asked for."""
        shown = [ListedItem.of(item, model_version) for item in items]
        if embeddings is not None:
            for one, item in zip(shown, items, strict=True):
                values = embeddings.get(item.slot)
                one.embedding = None if values is None else b64encode(values).decode()
        return cls(request_id=request_id, items=shown, next_cursor=cursor_of(last))


class CorrectionAnswer(GalleryItem):
    """The item as it is now; with `operation_id` the change of its identity can be undone."""

    request_id: str
    operation_id: str | None
    warnings: list[ItemWarning]


def image_url(item: Item) -> str | None:
    """Return where the bytes of an item are, if they are kept."""
    return f"/gallery/{item.id}/image" if item.has_crop else None
