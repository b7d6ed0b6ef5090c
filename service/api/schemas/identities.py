"""Bodies of requests and answers about identities and what corrects them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service.api.schemas.fields import AttributePairs, SelectionFields
from service.api.schemas.gallery import GalleryItem, image_url
from service.gallery.metadata import Name, OptionalIdentityName, OptionalName, OptionalTime
from service.people.identities import Known, Visit
from service.people.suggestions import Side, Suggestion
from service.store.tables import Operation

MAX_ITEMS = 1_000
MAX_ATTRIBUTES = 64
MAX_NOTES = 10_000


def _has_no_equals(name: str) -> str:
    if "=" in name:
        raise ValueError("an attribute's name has no =")
    return name


def _can_be_kept(text: str | None) -> str | None:
    if text and any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("NUL and halves of characters cannot be kept")
    return text or None


AttributeName = Annotated[Name, Field(max_length=64), AfterValidator(_has_no_equals)]
Attributes = Annotated[dict[AttributeName, Name], Field(max_length=MAX_ATTRIBUTES)]
Notes = Annotated[str | None, Field(max_length=MAX_NOTES), AfterValidator(_can_be_kept)]
ItemIds = Annotated[list[Annotated[Name, Field(max_length=64)]], Field(min_length=1, max_length=MAX_ITEMS)]


class IdentityDescription(BaseModel):
    """What is said of an identity; absent fields stay as they are, null or empty ones are cleared."""

    model_config = ConfigDict(extra="forbid")

    name: OptionalName = None
    notes: Notes = None
    attributes: Attributes | None = None


class NewIdentity(IdentityDescription):
    """An identity to make; without an id it gets one."""

    id: OptionalIdentityName = None


class IdentityFields(BaseModel):
    """An identity as the gallery knows it; `first_seen` and `last_seen` are of items with a time."""

    id: str
    name: str | None
    notes: str | None
    attributes: dict[str, str]
    created_at: datetime
    num_items: int
    first_seen: datetime | None
    last_seen: datetime | None
    cameras: list[str]

    @classmethod
    def of(cls, known: Known) -> "IdentityFields":
        """Show an identity."""
        return cls(
            id=known.row.id,
            name=known.row.name,
            notes=known.row.notes,
            attributes={row.name: row.value for row in known.row.attributes},
            created_at=known.row.created_at,
            num_items=known.num_items,
            first_seen=known.first_seen,
            last_seen=known.last_seen,
            cameras=known.cameras,
        )


class IdentityAnswer(IdentityFields):
    """One identity."""

    request_id: str


class IdentityPage(BaseModel):
    """Which identities to list, and how far the list was read before."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[OptionalName, Field(description="Is within the name; case does not matter.")] = None
    attribute: AttributePairs = []
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    cursor: Annotated[str, Field(max_length=64)] = ""


class IdentitiesAnswer(BaseModel):
    """One page of a list, in the order they were made; the last one has no `next_cursor`."""

    request_id: str
    identities: list[IdentityFields]
    next_cursor: str | None


class ItemPage(BaseModel):
    """How much of a list to give, and how far it was read before."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    cursor: Annotated[str, Field(max_length=64)] = ""


class TimelineVisit(BaseModel):
    """Sightings by one camera; `gap_s` are the seconds since the visit before to the same camera."""

    camera_id: str | None
    first: datetime
    last: datetime
    num_items: int
    item_id: str
    gap_s: float | None

    @classmethod
    def of(cls, visit: Visit) -> "TimelineVisit":
        """Show a visit."""
        return cls(**vars(visit))


class TimelineAnswer(BaseModel):
    """The visits of an identity by their beginnings; `num_untimed` of its items have no time."""

    request_id: str
    identity_id: str
    visits: list[TimelineVisit]
    num_untimed: int


class MergeOrder(BaseModel):
    """The identities whose items are given to another; they are done away with."""

    model_config = ConfigDict(extra="forbid")

    source_ids: Annotated[list[Name], Field(min_length=1, max_length=MAX_ITEMS)]


class SplitOrder(BaseModel):
    """The items that leave an identity, and to whom they go: by default to a new one of their own."""

    model_config = ConfigDict(extra="forbid")

    item_ids: ItemIds
    identity_id: OptionalIdentityName = None


class RejectOrder(BaseModel):
    """The items that do not show an identity."""

    model_config = ConfigDict(extra="forbid")

    item_ids: ItemIds


class Correction(BaseModel):
    """What to change of an item; absent fields stay, null ones are cleared."""

    model_config = ConfigDict(extra="forbid")

    identity_id: OptionalIdentityName = None
    camera_id: OptionalName = None
    captured_at: OptionalTime = None
    track_id: OptionalName = None


class CorrectionAnswer(GalleryItem):
    """The item as it is now; with `operation_id` the change of its identity can be undone."""

    request_id: str
    operation_id: str | None


class OperationFields(BaseModel):
    """What was corrected; POST /operations/{id}/undo takes it back."""

    operation_id: str
    kind: Literal["merge", "split", "relabel", "reject"]
    created_at: datetime
    undone_at: datetime | None

    @classmethod
    def of(cls, operation: Operation) -> "OperationFields":
        """Show an operation."""
        return cls.model_validate(
            {
                "operation_id": operation.id,
                "kind": operation.kind,
                "created_at": operation.created_at,
                "undone_at": operation.undone_at,
            }
        )


class OperationAnswer(OperationFields):
    """One operation."""

    request_id: str


class OperationPage(BaseModel):
    """How much of a list to give, and how far it was read before."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    cursor: Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")] = ""


class OperationsAnswer(BaseModel):
    """One page of a list, the newest first; the last one has no `next_cursor`."""

    request_id: str
    operations: list[OperationFields]
    next_cursor: str | None


class SuggestionFields(SelectionFields):
    """Which pairs to suggest, by the items that the filters let through."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 20
    min_score: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] = 0.6
    of: Annotated[OptionalName, Field(description="Pairs of this identity alone.")] = None


class SuggestedSide(BaseModel):
    """One identity of a pair, and its item that is most like the other one."""

    identity_id: str
    name: str | None
    item_id: str
    image_url: str | None

    @classmethod
    def showing(cls, side: Side) -> "SuggestedSide":
        """Show one side."""
        return cls(
            identity_id=side.identity.id,
            name=side.identity.name,
            item_id=side.item.id,
            image_url=image_url(side.item),
        )


class SuggestedPair(BaseModel):
    """Two identities that are likely one person; `score` is the cosine of their mean embeddings."""

    score: float
    identities: list[SuggestedSide]

    @classmethod
    def showing(cls, suggestion: Suggestion) -> "SuggestedPair":
        """Show a pair."""
        return cls(score=suggestion.score, identities=[SuggestedSide.showing(s) for s in suggestion.sides])


class SuggestionsAnswer(BaseModel):
    """Pairs, likeliest first."""

    request_id: str
    model_version: str
    suggestions: list[SuggestedPair]


def given(fields: BaseModel) -> dict[str, Any]:
    """Return the fields that a request has given, be they null."""
    return fields.model_dump(exclude_unset=True)
