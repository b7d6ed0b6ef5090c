"""Bodies about model versions, as the API documents them."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel

from service.api.schemas.strict import StrictModel
from service.versions.activation_queue import ActivationOptions, Strategy
from service.versions.registry import KnownModel

State = Literal["registered", "evaluating", "backfilling", "ready", "active", "retired", "failed"]


UNREADABLE = {"architecture": "unknown", "embedding_size": 0, "height": 0, "width": 0}
"""What is shown of a card that cannot be used."""


class Activation(StrictModel):
    """How to activate a version.

    `backfill` embeds every item first; `compatible` embeds queries with the new network at once and the
    gallery behind, which its card must promise. With `allow_missing`, items whose crop is gone are left out.
    With `require_better`, a version is refused that was not evaluated against the active one, or is worse by
    more than chance explains.
    """

    strategy: Strategy = "backfill"
    allow_missing: bool = False
    require_better: bool = False

    def wanted(self) -> ActivationOptions:
        """Return what is wanted."""
        return ActivationOptions(self.strategy, self.allow_missing, self.require_better)


class ModelVersion(BaseModel):
    """A registered network; a share of `coverage` of all items, `num_embedded`, have an embedding of it.

    `failure` says why its file, of `num_bytes`, cannot be used. `evaluation` is the newest on this gallery.
    """

    version: str
    state: State
    failure: str | None
    architecture: str
    embedding_size: int
    height: int
    width: int
    num_embedded: int
    coverage: float
    num_bytes: int
    created_at: datetime
    activated_at: datetime | None
    card: dict[str, Any]
    evaluation: dict[str, Any] | None

    @classmethod
    def of(cls, known: KnownModel, **more: Any) -> Self:
        """Return the fields of a model version, and `more` fields of a subclass."""
        card = UNREADABLE if known.card is None else known.card.to_dict()
        return cls.model_validate(
            {name: value for name, value in vars(known).items() if name != "card"}
            | {name: card[name] for name in ("architecture", "embedding_size", "height", "width")}
            | {"version": known.row.version, "card": card, "evaluation": known.row.evaluation}
            | {"created_at": known.row.created_at, "activated_at": known.row.activated_at}
            | more
        )


class ModelAnswer(ModelVersion):
    """One registered version."""

    request_id: str


class ModelsAnswer(BaseModel):
    """Every registered version, oldest first; `model_version` is the one in service."""

    request_id: str
    model_version: str
    models: list[ModelVersion]
