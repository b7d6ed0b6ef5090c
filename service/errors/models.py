"""Errors about model versions: checkpoints, activation and evaluation."""

from collections.abc import Iterable
from typing import Any

from service.errors.requests import CropRefused
from service.errors.service_error import ServiceError


class ModelNotFound(ServiceError):
    """No checkpoint of this version is registered."""

    code = "model_not_found"
    status = 404
    title = "Model version not found"

    def __init__(self, version: str) -> None:
        super().__init__(f"no model version {version[:64]!r} is registered; GET /models lists them")


class UnfitCheckpoint(ServiceError):
    """The service cannot use the posted checkpoint; the message says why."""

    code = "unfit_checkpoint"
    status = 422
    title = "Unfit checkpoint"


class TrialsBusy(ServiceError):
    """Other networks are being tried, one after the other, and this one has waited too long for its turn."""

    code = "trials_busy"
    status = 503
    title = "Trials busy"
    retry_after_s = 15

    def __init__(self) -> None:
        super().__init__(
            "other networks are being tried, one at a time; nothing was registered, so send this one again"
        )


class ModelFileLost(ServiceError):
    """The checkpoint file of a model version is gone or has changed."""

    code = "model_file_lost"
    status = 503
    title = "Model file lost"


class NetworkLost(ServiceError):
    """The checkpoint file of the active model version is gone, has changed, or cannot be loaded."""

    code = "network_lost"
    status = 503
    title = "Network lost"

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(
            f"the active model version {version} cannot be loaded: {reason}; register its file again "
            "with `reid models register FILE`; the service then continues without a restart"
        )


class ModelInUse(ServiceError):
    """A model version cannot be deleted, because searches or a job use the version."""

    code = "model_in_use"
    status = 409
    title = "Model in use"

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(f"{version} {reason}; the version was not deleted")


class NotFinite(CropRefused):
    """The network made an embedding with an infinite or NaN value.

    Args:
        version: the model version of the network.
        position: the position of the crop among the crops that were embedded together, from 0.
    """

    code = "embedding_not_finite"
    status = 500
    title = "Embedding not finite"

    def __init__(self, version: str, position: int) -> None:
        super().__init__(f"model version {version} made an embedding that is not finite; nothing was stored")
        self.position = position


class ActivationRunning(ServiceError):
    """Another activation is running; `job_id` is the id of its job."""

    code = "activation_running"
    status = 409
    title = "Activation running"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"an activation is running; wait for /jobs/{job_id}")
        self.job_id = job_id

    def members(self) -> dict[str, Any]:
        """Return the id of the job to wait for."""
        return {"job_id": self.job_id}


class ItemsMissing(ServiceError):
    """The stored crops of `item_ids` are gone, so a model version cannot embed these items."""

    code = "items_missing"
    status = 409
    title = "Items missing"

    def __init__(self, version: str, item_ids: Iterable[str]) -> None:
        self.item_ids = list(item_ids)
        some = ", ".join(self.item_ids[:3]) + (", ..." if len(self.item_ids) > 3 else "")
        super().__init__(
            f"the crops of {len(self.item_ids)} items are gone or have changed ({some}), so {version} cannot "
            "embed them; delete these items, or activate with allow_missing: searches will then not find them"
        )

    def members(self) -> dict[str, Any]:
        """Return the number of items without a crop, and the ids of the first thousand."""
        return {"num_missing": len(self.item_ids), "missing": self.item_ids[:1_000]}


class CropsNotKept(ServiceError):
    """Items were enrolled without storing their crops, so another model version cannot embed these items."""

    code = "crops_not_kept"
    status = 409
    title = "Crops not kept"

    def __init__(self, version: str, num: int) -> None:
        super().__init__(
            f"{num} items have no embedding by {version}, which cannot embed them: they were enrolled with "
            "REID_KEEP_CROPS=false, so their crops were not kept. Activate with allow_missing, and enrol "
            "these people again afterwards, because searches will no longer find the old items"
        )


class NotCompatible(ServiceError):
    """The card of the model version does not say that it is compatible with the active version."""

    code = "not_compatible"
    status = 409
    title = "Not compatible"

    def __init__(self, version: str, active: str, compatible_with: str | None) -> None:
        compatible = f"only with {compatible_with}" if compatible_with else "with no other version"
        super().__init__(
            f"{version} is compatible {compatible}, and {active} is active; use the strategy backfill, or "
            "train with --compatible-with"
        )


class NotEvaluated(ServiceError):
    """`require_better` needs a comparison of the model version with the active version, and there is none."""

    code = "not_evaluated"
    status = 409
    title = "Not evaluated"

    def __init__(self, version: str, active: str) -> None:
        super().__init__(
            f"{version} has not been compared with {active} on the present gallery: evaluate it first "
            f"(POST /models/{version}/evaluate, or `reid models evaluate {version}`)"
        )


class NotBetter(ServiceError):
    """The model version is worse than the active version by more than chance explains."""

    code = "not_better"
    status = 409
    title = "Not better"

    def __init__(self, version: str, comparison: dict[str, Any]) -> None:
        metrics = ", ".join(
            f"{name} {found['value']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
            for name, found in comparison["difference"].items()
        )
        super().__init__(
            f"{version} is worse on this gallery than the active version: {metrics}; not switched"
        )
        self.comparison = comparison

    def members(self) -> dict[str, Any]:
        """Return the comparison that the evaluation made."""
        return {"comparison": self.comparison}


class NothingToRollBackTo(ServiceError):
    """No other model version was active before, or it has been deleted."""

    code = "nothing_to_roll_back_to"
    status = 409
    title = "Nothing to roll back to"

    def __init__(self) -> None:
        super().__init__("no other version was active before in this gallery; nothing was changed")


class TooFewLabels(ServiceError):
    """The gallery has too few labelled items for an evaluation; the message says how many are needed."""

    code = "too_few_labels"
    status = 500
    title = "Too few labels"


class VersionDiffers(ServiceError):
    """The embeddings of a search were made by a model version that the gallery is not searched by."""

    code = "version_differs"
    status = 409
    title = "Another model version"

    def __init__(self, given: str, searched: str) -> None:
        super().__init__(
            f"the embeddings are of version {given[:64]!r}, and the gallery is searched by {searched}; embed "
            "the crop again, or search by its item_id"
        )
