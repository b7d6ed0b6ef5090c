"""Model versions: register, evaluate, activate, roll back and delete them."""

from pathlib import Path

from service.client.calls import Call, nothing, reads
from service.client.requests import Strategy, sendable_name
from service.client.service_answers import Job, ModelsAnswer, ModelVersion


def list_models() -> Call[ModelsAnswer]:
    """Read all registered model versions, and which of them is active."""
    return Call("GET", "/models", reads(ModelsAnswer), is_safe=True)


def get_model(version: str) -> Call[ModelVersion]:
    """Read one model version.

    Args:
        version: the model version; "active" stands for the active version.

    Raises:
        Refused: there is no such version.
    """
    return Call("GET", f"/models/{version}", reads(ModelVersion), is_safe=True)


def register_model(path: Path) -> Call[ModelVersion]:
    """Register a checkpoint with the service. The active model version stays active.

    Returns:
        The model version; if the service had registered the same checkpoint before, that version.

    Raises:
        OSError: the file cannot be read.
        Refused: the file is not a checkpoint that the service can use.
    """
    checkpoint = path.open("rb")
    body = {"files": {"checkpoint": (sendable_name(path), checkpoint)}}
    return Call("POST", "/models", reads(ModelVersion), body, is_done_once=True, opened=(checkpoint,))


def activate_model(
    version: str,
    *,
    strategy: Strategy = "backfill",
    require_better: bool = False,
    allow_missing: bool = False,
) -> Call[Job]:
    """Start the switch to a model version. Searches go on during the switch.

    Args:
        version: a registered model version.
        strategy: "backfill" embeds every item before the switch. "compatible" switches at once and embeds
            the items afterwards; the version must have been trained to be compatible with the active one.
        require_better: whether to refuse a version that is worse than the active one or has not been
            evaluated.
        allow_missing: whether to leave out items whose crop is missing. Searches then no longer find
            these items.

    Returns:
        The job that activates the version.

    Raises:
        Refused: there is no such version, the options do not allow its activation, or another activation
            runs.
    """
    options = {"strategy": strategy, "require_better": require_better, "allow_missing": allow_missing}
    path = f"/models/{version}/activate"
    return Call("POST", path, reads(Job), {"json": options}, is_done_once=True)


def roll_back() -> Call[Job]:
    """Start the switch back to the model version that was active before, and return the job.

    Raises:
        Refused: no other version has been active, or an activation runs.
    """
    return Call("POST", "/models/rollback", reads(Job), is_done_once=True)


def evaluate_model(version: str) -> Call[Job]:
    """Start the comparison of a model version with the active one on the gallery's labelled items.

    Returns:
        The job; its `result` is the comparison once it has succeeded.

    Raises:
        Refused: there is no such version, or the gallery has too few labelled items.
    """
    return Call("POST", f"/models/{version}/evaluate", reads(Job), is_done_once=True)


def delete_model(version: str) -> Call[None]:
    """Delete a model version with its embeddings.

    Raises:
        Refused: there is no such version, or it is in use.
    """
    return Call("DELETE", f"/models/{version}", nothing)
