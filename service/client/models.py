"""The requests of the client about model versions."""

from pathlib import Path
from typing import cast

from service.client.answers import Job, ModelsAnswer, ModelVersion
from service.client.requests import Strategy, sendable_name
from service.client.sender import Sender


class ModelRequests(Sender):
    """The part of the client that asks about model versions."""

    def list_models(self) -> ModelsAnswer:
        """Read all registered model versions, and which of them is active."""
        return cast("ModelsAnswer", self._send("GET", "/models"))

    def get_model(self, version: str) -> ModelVersion:
        """Read one model version.

        Args:
            version: the model version; "active" stands for the active version.

        Raises:
            Refused: there is no such version.
        """
        return cast("ModelVersion", self._send("GET", f"/models/{version}"))

    def register_model(self, path: Path) -> ModelVersion:
        """Register a checkpoint with the service. The active model version stays active.

        Returns:
            The model version; if the service had registered the same checkpoint before, that version.

        Raises:
            OSError: the file cannot be read.
            Refused: the file is not a checkpoint that the service can use.
        """
        with path.open("rb") as checkpoint:
            files = {"checkpoint": (sendable_name(path), checkpoint)}
            return cast("ModelVersion", self._send("POST", "/models", files=files))

    def activate_model(
        self,
        version: str,
        *,
        strategy: Strategy = "backfill",
        require_better: bool = False,
        allow_missing: bool = False,
    ) -> Job:
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
        return cast("Job", self._send("POST", f"/models/{version}/activate", json=options))

    def roll_back(self) -> Job:
        """Start the switch back to the model version that was active before, and return the job.

        Raises:
            Refused: no other version has been active, or an activation runs.
        """
        return cast("Job", self._send("POST", "/models/rollback"))

    def evaluate_model(self, version: str) -> Job:
        """Start the comparison of a model version with the active one on the gallery's labelled items.

        Returns:
            The job; its `result` is the comparison once it has succeeded.

        Raises:
            Refused: there is no such version, or the gallery has too few labelled items.
        """
        return cast("Job", self._send("POST", f"/models/{version}/evaluate"))

    def delete_model(self, version: str) -> None:
        """Delete a model version with its embeddings.

        Raises:
            Refused: there is no such version, or it is in use.
        """
        self._send("DELETE", f"/models/{version}")
