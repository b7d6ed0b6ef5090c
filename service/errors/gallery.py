"""Errors about gallery items and their stored crops."""

from typing import Any

from service.errors.requests import CropRefused
from service.errors.service_error import ServiceError


class GalleryItemNotFound(ServiceError):
    """The gallery has no item of this id."""

    code = "item_not_found"
    status = 404
    title = "Gallery item not found"

    def __init__(self, item_id: str) -> None:
        super().__init__(f"the gallery has no item {item_id[:64]!r}")


class QueryNotKept(ServiceError):
    """The audit keeps no query crop of this hash."""

    code = "query_not_kept"
    status = 404
    title = "Query not kept"

    def __init__(self, sha256: str) -> None:
        super().__init__(
            f"the audit keeps no query crop {sha256[:64]!r}: REID_AUDIT_KEEP_QUERIES was off, its row has "
            "expired, or a person whom the search found was erased"
        )


class DuplicateCrop(CropRefused):
    """A posted crop is in the gallery already.

    Args:
        position: of the image in the request, from 0.
        item_id: the id of the item that has the same bytes from the same camera.
    """

    code = "duplicate_crop"
    status = 409
    title = "Duplicate crop"

    def __init__(self, position: int, item_id: str) -> None:
        super().__init__(f"images[{position}]: its camera has sent the same bytes before, as item {item_id}")
        self.position = position
        self.item_id = item_id

    def members(self) -> dict[str, Any]:
        """Return the position of the image, and the id of the item."""
        return {"position": self.position, "item_id": self.item_id}


class CountDiffers(ServiceError):
    """The filter of a deletion selects `num_items` items, and the caller expected another number."""

    code = "count_differs"
    status = 409
    title = "Count differs"

    def __init__(self, expected: int, num_items: int) -> None:
        super().__init__(
            f"expected {expected} items, but the filter selects {num_items}: nothing was deleted"
        )
        self.num_items = num_items

    def members(self) -> dict[str, Any]:
        """Return the number of items that the filter selects."""
        return {"num_items": self.num_items}


class CropMissing(ServiceError):
    """A stored crop is gone, or its bytes no longer have the SHA-256 that names the file."""

    code = "crop_missing"
    status = 503
    title = "Crop missing"


class CropNotKept(ServiceError):
    """The item was enrolled under REID_KEEP_CROPS=false, so its crop was never stored."""

    code = "crop_not_kept"
    status = 410
    title = "Crop not kept"

    def __init__(self, item_id: str) -> None:
        super().__init__(
            f"the crop of item {item_id} was not kept: this service ran with REID_KEEP_CROPS=false"
        )
