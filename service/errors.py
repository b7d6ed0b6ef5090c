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
├── ItemsMissing            crops are gone that a version would have to embed
├── CropsNotKept            crops were never kept that a version would have to embed
├── NotCompatible           the version does not promise to be comparable with the active one
├── NotEvaluated            the version was not compared with the active one
├── NotBetter               the version is worse than the active one
├── NothingToRollBackTo     no other version has been active
├── ModelFileLost           the file of a version is gone or has changed
├── ModelInUse              the version is active, or a job works with it
├── IdentityNotFound
├── IdentityExists          an id that is to be made is there already
├── OperationNotFound
├── CannotUndo              what came later stands in the way
├── ItemElsewhere           the item is of another identity
├── TooManyIdentities       more than can be compared with each other at once
├── CountDiffers            not as many items as the caller expected
├── TooFewLabels            too few items of known people to judge a network by
├── CropMissing             a stored crop is gone or no longer what its hash says
├── NetworkLost             the file of the active network is gone or has changed
├── NotFinite               the network made an embedding that is not; knows whose
├── CropNotKept             the item was enrolled without keeping its crop
├── StorageFull             there is no room left for what must be kept
├── StorageUnavailable      the data folder cannot be read or written
├── DatabaseUnavailable     the database does not answer
└── DatabaseDamaged         the file of the database is not what SQLite has written
"""

from collections.abc import Iterable
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
    """One of the posted images is refused; `position` counts from 0 in its `field` of the form."""

    def __init__(self, detail: str, position: int = 0) -> None:
        super().__init__(detail, position)
        self.detail = detail
        self.position = position
        self.field = "images"

    def __str__(self) -> str:
        """Say which image it is, and what is wrong with it."""
        return f"{self.field}[{self.position}]: {self.detail}"

    def members(self) -> dict[str, Any]:
        """Return which of the images it is."""
        fault = {"loc": ["body", self.field, self.position], "msg": self.detail, "type": self.code}
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


class ItemsMissing(ServiceError):
    """Items cannot be embedded, as their crops are gone; `item_ids` has them."""

    def __init__(self, version: str, item_ids: Iterable[str]) -> None:
        self.item_ids = list(item_ids)
        some = ", ".join(self.item_ids[:3]) + (", ..." if len(self.item_ids) > 3 else "")
        super().__init__(
            f"the crops of {len(self.item_ids)} items are gone or have changed ({some}), so {version} cannot "
            "embed them; delete these items, or activate with allow_missing: searches will not find them"
        )

    def members(self) -> dict[str, Any]:
        """Return which items these are, the first thousand of them."""
        return {"num_missing": len(self.item_ids), "missing": self.item_ids[:1_000]}


class CropsNotKept(ServiceError):
    """Items were enrolled without keeping their crops, so no other version can embed them."""

    code = "crops_not_kept"
    title = "Crops not kept"

    def __init__(self, version: str, num: int) -> None:
        super().__init__(
            f"{num} items were enrolled with REID_KEEP_CROPS=false and have no embedding by {version}: it "
            "cannot be made without their crops. Enrol these people anew after the swap: activate with "
            "allow_missing, and searches will not find the old items any more"
        )


class NotCompatible(ServiceError):
    """The card of a version does not promise that its embeddings compare with those of the active one."""

    code = "not_compatible"
    title = "Not compatible"

    def __init__(self, version: str, active: str, promised: str | None) -> None:
        with_what = f"only with {promised}" if promised else "with no other version"
        super().__init__(
            f"{version} is compatible {with_what}, and {active} is active; use the strategy backfill, or "
            "train with --compatible-with"
        )


class NotEvaluated(ServiceError):
    """A version that must not be worse than the active one has not been compared with it."""

    code = "not_evaluated"
    title = "Not evaluated"

    def __init__(self, version: str, active: str) -> None:
        super().__init__(
            f"{version} was not compared with {active} on the gallery as it is now: evaluate it first "
            f"(POST /models/{version}/evaluate, or `reid models evaluate {version}`)"
        )


class NotBetter(ServiceError):
    """A version is worse than the active one, by more than chance explains."""

    code = "not_better"
    title = "Not better"

    def __init__(self, version: str, comparison: dict[str, Any]) -> None:
        said = ", ".join(
            f"{name} {found['value']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
            for name, found in comparison["difference"].items()
        )
        super().__init__(f"{version} is worse on this gallery than the active version: {said}; not switched")
        self.comparison = comparison

    def members(self) -> dict[str, Any]:
        """Return what the evaluation found."""
        return {"comparison": self.comparison}


class NothingToRollBackTo(ServiceError):
    """No other version has been active, or it has been deleted."""

    code = "nothing_to_roll_back_to"
    title = "Nothing to roll back to"

    def __init__(self) -> None:
        super().__init__("no other version has been active in this gallery; nothing was changed")


class ModelFileLost(ServiceError):
    """The file of a model version is gone or has changed."""

    code = "model_file_lost"
    title = "Model file lost"


class ModelInUse(ServiceError):
    """A version is active, or searched in the active one's stead, or a job works with it."""

    code = "model_in_use"
    title = "Model in use"

    def __init__(self, version: str, why: str) -> None:
        super().__init__(f"{version} {why}; it was not deleted")


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

    def __init__(self, identity_id: str, more: str = "") -> None:
        super().__init__(f"the gallery has no identity {identity_id[:64]!r}{more}")


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


class TooFewLabels(ServiceError):
    """The gallery has too few labelled items to judge a network by; the message says how many it takes."""

    code = "too_few_labels"
    title = "Too few labels"


class CropMissing(ServiceError):
    """A stored crop is gone, or its bytes no longer have the hash they are stored under."""

    code = "crop_missing"
    title = "Crop missing"


class NetworkLost(ServiceError):
    """The file of the active network cannot be used."""

    code = "network_lost"
    title = "Network lost"

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(
            f"the active model version {version} cannot be loaded: {reason}; give its file again with "
            "`reid models register FILE`, and the service goes on"
        )


class NotFinite(ServiceError):
    """The network made an embedding that is not finite, of the crop at `position` of those it was given."""

    def __init__(self, version: str, position: int) -> None:
        super().__init__(f"model version {version} made an embedding that is not finite; nothing was stored")
        self.position = position


class CropNotKept(ServiceError):
    """An item was enrolled without keeping its crop."""

    code = "crop_not_kept"
    title = "Crop not kept"

    def __init__(self, item_id: str) -> None:
        super().__init__(
            f"the crop of item {item_id} was not kept: this service ran with REID_KEEP_CROPS=false"
        )


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


class DatabaseDamaged(ServiceError):
    """SQLite cannot make sense of its file any more."""

    code = "database_damaged"
    title = "Database damaged"


STATUS: dict[str, int] = {
    NotReady.code: 503,
    NetworkLost.code: 503,
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
    CropsNotKept.code: 409,
    NotCompatible.code: 409,
    NotEvaluated.code: 409,
    NotBetter.code: 409,
    NothingToRollBackTo.code: 409,
    ModelInUse.code: 409,
    ModelFileLost.code: 503,
    CountDiffers.code: 409,
    IdentityNotFound.code: 404,
    IdentityExists.code: 409,
    OperationNotFound.code: 404,
    CannotUndo.code: 409,
    ItemElsewhere.code: 409,
    TooManyIdentities.code: 422,
    CropMissing.code: 503,
    CropNotKept.code: 410,
    StorageFull.code: 507,
    StorageUnavailable.code: 503,
    DatabaseUnavailable.code: 503,
    DatabaseDamaged.code: 503,
}
"""The HTTP status of each error code; one that is not here answers 500."""
