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

    The strategy `backfill` embeds every item before the switch. The strategy `compatible` embeds queries with
    the version at once, and the items afterwards; the card of the version must say that it is compatible with
    the active one. `allow_missing` leaves out items whose crop is gone. `require_better` refuses a version
    that was not evaluated against the active one, or that is worse by more than chance explains.
    """

    strategy: Strategy = "backfill"
    allow_missing: bool = False
    require_better: bool = False

    def to_options(self) -> ActivationOptions:
        """Return the options as the activation queue takes them."""
        return ActivationOptions(self.strategy, self.allow_missing, self.require_better)


class ModelVersion(BaseModel):
    """A registered model version.

    `num_embedded` items have an embedding of this version; `coverage` is their share of all items, from 0
    to 1. `num_bytes` is the size of the checkpoint, and `failure` says why the checkpoint cannot be used.
    `evaluation` is the newest evaluation on this gallery.
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
    """One model version."""

    request_id: str


class ModelsAnswer(BaseModel):
    """All model versions, oldest first; `model_version` is the active one."""

    request_id: str
    model_version: str
    models: list[ModelVersion]
