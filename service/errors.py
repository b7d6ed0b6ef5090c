"""Everything the service refuses or fails at, and the one table from error to HTTP status.

ServiceError
├── BadSettings             the environment has a value we cannot use
├── NotReady                the network or the index is not loaded yet, or failed to load
├── InvalidRequest          a field is missing, malformed or contradicts another
├── ImageError              one of the posted images; knows its position
│   ├── UnreadableImage     not an image, torn, or not JPEG/PNG/WebP/BMP
│   ├── ImageTooLarge       too many bytes or pixels
│   └── CropTooSmall        too few pixels a side
├── DuplicateCrop           the crop is there already, and the caller wants none twice
├── BadBackup               a backup that is torn, unknown, or would overwrite another
├── NotEmpty                a backup is to be restored where there is a gallery
├── BadArchive              a tar or zip that is torn, hostile or too large
├── GalleryItemNotFound
├── ModelNotFound
├── JobNotFound
├── JobEnded                there is nothing left to cancel
├── IdempotencyMismatch     the key was used for another request
├── IdempotencyInProgress   the same request is being answered
├── UnfitCheckpoint         the posted file is no network we can serve
├── ActivationRunning       one at a time
├── IdentityNotFound
├── IdentityExists          an id that is to be made is there already
├── OperationNotFound
├── CannotUndo              what came later stands in the way
├── ItemElsewhere           the item is of another identity
├── TooManyIdentities       more than can be compared with each other at once
├── CountDiffers            not as many items as the caller expected
├── CropMissing             a stored crop is gone or no longer what its hash says
├── NotFinite               the network made an embedding that is not; knows whose
├── StorageFull             there is no room left for what must be kept
├── StorageUnavailable      the data folder cannot be read or written
└── DatabaseUnavailable     the database does not answer
"""

from typing import Any, ClassVar


class ServiceError(Exception):
    """Base of all our errors; the message is fit to show to a user."""

    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def members(self) -> dict[str, Any]:
        """Return what a problem document says beyond the standard members."""
        return {}


class BadSettings(ServiceError):
    """A setting has a value that cannot be used."""

    code = "bad_settings"
    title = "Bad settings"


class NotReady(ServiceError):
    """No network is serving yet, or none could be loaded."""

    code = "not_ready"
    title = "Not ready"


class InvalidRequest(ServiceError):
    """A field is missing, malformed or contradicts another.

    `errors` has one entry a fault: where it is (`loc`), what is wrong (`msg`), and its `type`.
    """

    code = "invalid_request"
    title = "Invalid request"

    def __init__(self, detail: str, errors: list[dict[str, Any]]) -> None:
        super().__init__(detail)
        self.errors = errors

    def members(self) -> dict[str, Any]:
        """Return the faults, one by one."""
        return {"errors": self.errors}


class ImageError(ServiceError):
    """One of the posted images is refused; `position` counts from 0."""

    def __init__(self, detail: str, position: int = 0) -> None:
        super().__init__(f"images[{position}]: {detail}")
        self.detail = detail
        self.position = position

    def members(self) -> dict[str, Any]:
        """Return which of the images it is."""
        fault = {"loc": ["body", "images", self.position], "msg": self.detail, "type": self.code}
        return {"position": self.position, "errors": [fault]}


class UnreadableImage(ImageError):
    """Not an image, a torn one, or not one of our formats."""

    code = "unreadable_image"
    title = "Unreadable image"


class ImageTooLarge(ImageError):
    """More bytes or pixels than allowed."""

    code = "image_too_large"
    title = "Image too large"


class CropTooSmall(ImageError):
    """Too few pixels a side to recognise anyone."""

    code = "crop_too_small"
    title = "Crop too small"


class DuplicateCrop(ServiceError):
    """One of the crops is in the gallery already; `position` counts from 0, `item_id` is the item's."""

    code = "duplicate_crop"
    title = "Duplicate crop"

    def __init__(self, position: int, item_id: str) -> None:
        super().__init__(f"images[{position}]: its camera has sent these very bytes before: item {item_id}")
        self.position = position
        self.item_id = item_id

    def members(self) -> dict[str, Any]:
        """Return which of the images it is, and the item."""
        return {"position": self.position, "item_id": self.item_id}


class BadArchive(ServiceError):
    """A tar or zip that is torn, hostile or too large; nothing of it is stored."""

    code = "bad_archive"
    title = "Bad archive"


class BadBackup(ServiceError):
    """A file that is no whole backup of ours; the message says why."""

    code = "bad_backup"
    title = "Bad backup"


class NotEmpty(ServiceError):
    """A backup is only restored where there is no gallery yet."""

    code = "not_empty"
    title = "Not empty"


class GalleryItemNotFound(ServiceError):
    """The gallery has no item of this id."""

    code = "item_not_found"
    title = "Gallery item not found"

    def __init__(self, item_id: str) -> None:
        super().__init__(f"the gallery has no item {item_id[:64]!r}")


class ModelNotFound(ServiceError):
    """No checkpoint of this version is registered."""

    code = "model_not_found"
    title = "Model version not found"

    def __init__(self, version: str) -> None:
        super().__init__(f"no model version {version[:64]!r} is registered; GET /models lists them")


class JobNotFound(ServiceError):
    """There is no job of this id."""

    code = "job_not_found"
    title = "Job not found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id[:64]!r}")


class JobEnded(ServiceError):
    """A job that has ended cannot be cancelled."""

    code = "job_ended"
    title = "Job ended"

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"job {job_id} has ended: {state}")


class IdempotencyMismatch(ServiceError):
    """An Idempotency-Key was used for another request before."""

    code = "idempotency_mismatch"
    title = "Idempotency-Key of another request"

    def __init__(self) -> None:
        super().__init__(
            "this Idempotency-Key was used for another request in the last 24 hours; take a new one"
        )


class IdempotencyInProgress(ServiceError):
    """The first request with this Idempotency-Key has not been answered yet."""

    code = "idempotency_in_progress"
    title = "Request in progress"

    def __init__(self) -> None:
        super().__init__("the first request with this Idempotency-Key is being answered; try again soon")


class UnfitCheckpoint(ServiceError):
    """The file is no network we can serve; the message says why."""

    code = "unfit_checkpoint"
    title = "Unfit checkpoint"


class ActivationRunning(ServiceError):
    """Another activation is under way; `job_id` is its job."""

    code = "activation_running"
    title = "Activation running"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"an activation is under way; wait for /jobs/{job_id}")
        self.job_id = job_id

    def members(self) -> dict[str, Any]:
        """Return the job to wait for."""
        return {"job_id": self.job_id}


class CountDiffers(ServiceError):
    """The items that are meant are not as many as the caller expected; `num_items` is how many they are."""

    code = "count_differs"
    title = "Count differs"

    def __init__(self, expected: int, num_items: int) -> None:
        super().__init__(f"expected {expected} items, and {num_items} are meant: nothing was deleted")
        self.num_items = num_items

    def members(self) -> dict[str, Any]:
        """Return how many they are."""
        return {"num_items": self.num_items}


class IdentityNotFound(ServiceError):
    """The gallery has no identity of this id."""

    code = "identity_not_found"
    title = "Identity not found"

    def __init__(self, identity_id: str) -> None:
        super().__init__(f"the gallery has no identity {identity_id[:64]!r}")


class IdentityExists(ServiceError):
    """There is an identity of this id already."""

    code = "identity_exists"
    title = "Identity exists"

    def __init__(self, identity_id: str) -> None:
        super().__init__(f"there is an identity {identity_id[:64]!r} already; PATCH it, or choose another id")


class OperationNotFound(ServiceError):
    """There is no operation of this id; those of erased people are gone."""

    code = "operation_not_found"
    title = "Operation not found"

    def __init__(self, operation_id: str) -> None:
        super().__init__(f"there is no operation {operation_id[:64]!r}")


class CannotUndo(ServiceError):
    """An operation cannot be taken back; the message says what stands in the way."""

    code = "cannot_undo"
    title = "Cannot undo"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the operation cannot be undone: {reason}")


class ItemElsewhere(ServiceError):
    """An item is not of the identity that it is said to be of."""

    code = "item_elsewhere"
    title = "Item of another identity"

    def __init__(self, item_id: str, identity_id: str) -> None:
        super().__init__(f"item {item_id} is not of identity {identity_id[:64]!r}; nothing was changed")


class TooManyIdentities(ServiceError):
    """So many identities cannot be compared with each other at once."""

    code = "too_many_identities"
    title = "Too many identities"

    def __init__(self, num: int, most: int) -> None:
        hint = "narrow them by a filter, or ask for the pairs of one identity with `of`"
        super().__init__(f"{num:,} identities are more than the {most:,} that are compared at once; {hint}")


class CropMissing(ServiceError):
    """A stored crop is gone, or its bytes no longer have the hash they are stored under."""

    code = "crop_missing"
    title = "Crop missing"


class NotFinite(ServiceError):
    """The network made an embedding that is not finite, of the crop at `position` of those it was given."""

    def __init__(self, version: str, position: int) -> None:
        super().__init__(f"model version {version} made an embedding that is not finite; nothing was stored")
        self.position = position


class StorageFull(ServiceError):
    """There is no room left on the disk; nothing was changed."""

    code = "storage_full"
    title = "Storage full"


class StorageUnavailable(ServiceError):
    """The data folder cannot be read or written; nothing was changed."""

    code = "storage_unavailable"
    title = "Storage unavailable"


class DatabaseUnavailable(ServiceError):
    """The database does not answer; it is asked again by the next request."""

    code = "database_unavailable"
    title = "Database unavailable"


STATUS: dict[str, int] = {
    NotReady.code: 503,
    InvalidRequest.code: 422,
    UnreadableImage.code: 415,
    ImageTooLarge.code: 413,
    CropTooSmall.code: 422,
    DuplicateCrop.code: 409,
    BadArchive.code: 422,
    JobEnded.code: 409,
    IdempotencyMismatch.code: 422,
    IdempotencyInProgress.code: 409,
    GalleryItemNotFound.code: 404,
    ModelNotFound.code: 404,
    JobNotFound.code: 404,
    UnfitCheckpoint.code: 422,
    ActivationRunning.code: 409,
    CountDiffers.code: 409,
    IdentityNotFound.code: 404,
    IdentityExists.code: 409,
    OperationNotFound.code: 404,
    CannotUndo.code: 409,
    ItemElsewhere.code: 409,
    TooManyIdentities.code: 422,
    CropMissing.code: 503,
    StorageFull.code: 507,
    StorageUnavailable.code: 503,
    DatabaseUnavailable.code: 503,
}
"""The HTTP status of each error code; one that is not here answers 500."""
