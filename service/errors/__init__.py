"""The errors that the service names, by subject."""

from service.errors.gallery import (
    CountDiffers,
    CropMissing,
    CropNotKept,
    DuplicateCrop,
    GalleryItemNotFound,
)
from service.errors.jobs import (
    JobEnded,
    JobNotFound,
)
from service.errors.models import (
    ActivationRunning,
    CropsNotKept,
    ItemsMissing,
    ModelFileLost,
    ModelInUse,
    ModelNotFound,
    NetworkLost,
    NotBetter,
    NotCompatible,
    NotEvaluated,
    NotFinite,
    NothingToRollBackTo,
    TooFewLabels,
    UnfitCheckpoint,
)
from service.errors.people import (
    CannotUndo,
    IdentityExists,
    IdentityNotFound,
    ItemElsewhere,
    OperationNotFound,
    TooManyIdentities,
)
from service.errors.requests import (
    BadArchive,
    CropTooSmall,
    IdempotencyInProgress,
    IdempotencyMismatch,
    ImageError,
    ImageTooLarge,
    InvalidRequest,
    UnreadableImage,
)
from service.errors.service_error import (
    ServiceError,
)
from service.errors.startup import (
    BadSettings,
    NotReady,
)
from service.errors.storage import (
    BadBackup,
    DatabaseDamaged,
    DatabaseUnavailable,
    NotEmpty,
    StorageFull,
    StorageUnavailable,
)

__all__ = [
    "ActivationRunning",
    "BadArchive",
    "BadBackup",
    "BadSettings",
    "CannotUndo",
    "CountDiffers",
    "CropMissing",
    "CropNotKept",
    "CropTooSmall",
    "CropsNotKept",
    "DatabaseDamaged",
    "DatabaseUnavailable",
    "DuplicateCrop",
    "GalleryItemNotFound",
    "IdempotencyInProgress",
    "IdempotencyMismatch",
    "IdentityExists",
    "IdentityNotFound",
    "ImageError",
    "ImageTooLarge",
    "InvalidRequest",
    "ItemElsewhere",
    "ItemsMissing",
    "JobEnded",
    "JobNotFound",
    "ModelFileLost",
    "ModelInUse",
    "ModelNotFound",
    "NetworkLost",
    "NotBetter",
    "NotCompatible",
    "NotEmpty",
    "NotEvaluated",
    "NotFinite",
    "NotReady",
    "NothingToRollBackTo",
    "OperationNotFound",
    "ServiceError",
    "StorageFull",
    "StorageUnavailable",
    "TooFewLabels",
    "TooManyIdentities",
    "UnfitCheckpoint",
    "UnreadableImage",
]
