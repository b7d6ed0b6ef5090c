"""Bodies of requests and answers about identities."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from model.data.names import normalise_name
from service.api.schemas.pages import MAX_LIMIT, Limit, Page
from service.api.schemas.strict import StrictModel
from service.gallery.metadata import (
    MAX_ATTRIBUTE_NAME,
    MAX_NAME,
    Name,
    OptionalIdentityName,
    OptionalName,
)
from service.gallery.selection import ItemFilters, Seconds, Selection
from service.people.identities import IdentitySummary, Visit

MAX_ATTRIBUTES = 64
MAX_NOTES = 10_000


def _without_equals(name: str) -> str:
    if "=" in name:
        raise ValueError("the name of an attribute must not contain =")
    return name


def _storable(text: str | None) -> str | None:
    if text and any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("NUL and lone surrogates are not allowed")
    return text or None


def _once_each(attributes: object) -> object:
    if isinstance(attributes, dict):
        names = [str(name)[: MAX_NAME + 1] for name in attributes]
        if len({normalise_name(name) for name in names}) < len(set(names)):
            raise ValueError("the name of an attribute is given in two spellings; keep one of them")
    return attributes


AttributeName = Annotated[Name, Field(max_length=MAX_ATTRIBUTE_NAME), AfterValidator(_without_equals)]
Attributes = Annotated[
    dict[AttributeName, Name], Field(max_length=MAX_ATTRIBUTES), BeforeValidator(_once_each)
]
Notes = Annotated[str | None, Field(max_length=MAX_NOTES), AfterValidator(_storable)]


class IdentityDescription(StrictModel):
    """The description of an identity. Absent fields stay as they are; null or empty ones are cleared."""

    name: OptionalName = None
    notes: Notes = None
    attributes: Attributes | None = None


class NewIdentity(IdentityDescription):
    """An identity to make; without `id` the identity gets a random id."""

    id: OptionalIdentityName = None


class IdentityFields(BaseModel):
    """An identity; `first_seen` and `last_seen` are the earliest and the latest time of its items."""

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
    def of(cls, summary: IdentitySummary, **more: Any) -> Self:
        """Return the fields of an identity, and `more` fields of a subclass."""
        return cls(
            id=summary.row.id,
            name=summary.row.name,
            notes=summary.row.notes,
            attributes={row.name: row.value for row in summary.row.attributes},
            created_at=summary.created_at,
            num_items=summary.num_items,
            first_seen=summary.first_seen,
            last_seen=summary.last_seen,
            cameras=summary.cameras,
            **more,
        )


class IdentityAnswer(IdentityFields):
    """One identity."""

    request_id: str


class IdentityPage(Page, Selection):
    """The query parameters of a list of identities: filters, and a page."""

    name: Annotated[
        OptionalName,
        Field(description="Only identities whose name contains this text; case does not matter."),
    ] = None


class IdentitiesAnswer(BaseModel):
    """A page of identities, in the order in which they were made; `next_cursor` is null on the last page."""

    request_id: str
    identities: list[IdentityFields]
    next_cursor: str | None


class IdentityItemPage(Page, ItemFilters):
    """The query parameters of a list of the items of one identity: filters, and a page."""


class TimelineVisit(BaseModel):
    """Sightings by one camera; `gap_s` is the seconds since the end of the last visit to this camera."""

    camera_id: str | None
    first: datetime
    last: datetime
    num_items: int
    item_id: str
    gap_s: float | None

    @classmethod
    def of(cls, visit: Visit) -> "TimelineVisit":
        """Return a visit as answers show visits."""
        return cls(**vars(visit))


class TimelinePage(Page, ItemFilters):
    """Which sightings and visits to show, and how far the timeline was read before."""

    limit: Limit = MAX_LIMIT
    visit_gap_s: Annotated[
        Seconds,
        Field(description="A longer gap between sightings by a camera, in seconds, begins a new visit."),
    ] = 300.0


class TimelineAnswer(BaseModel):
    """A page of the visits of an identity, earliest first; `num_untimed` counts its items without a time."""

    request_id: str
    identity_id: str
    visits: list[TimelineVisit]
    num_untimed: int
    next_cursor: str | None
