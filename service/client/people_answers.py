"""Answers about people: identities, visits, corrections. Times are in UTC."""

from datetime import datetime
from typing import Literal

from service.client.answers import Answer


class Identity(Answer):
    """A person; `first_seen` and `last_seen` are the earliest and the latest time of the items."""

    id: str
    name: str | None
    notes: str | None
    attributes: dict[str, str]
    created_at: datetime
    num_items: int
    first_seen: datetime | None
    last_seen: datetime | None
    cameras: list[str]


class ShownIdentity(Identity):
    """One person."""

    request_id: str


class Visit(Answer):
    """Sightings by one camera; `gap_s` is the seconds since the end of the last visit to this camera."""

    camera_id: str | None
    first: datetime
    last: datetime
    num_items: int
    item_id: str
    gap_s: float | None


class MovedItem(Answer):
    """An item that went from one identity to another, which are named as they were then."""

    item_id: str
    from_id: str | None
    to_id: str | None


class Operation(Answer):
    """A correction, which can be undone.

    `by` and `undone_by` are names of keys, and None without keys. Of the `num_items` that it moved, `items`
    has the first 100.
    """

    operation_id: str
    kind: Literal["merge", "split", "relabel", "reject"]
    created_at: datetime
    undone_at: datetime | None
    by: str | None
    undone_by: str | None
    identities: list[str]
    num_items: int
    items: list[MovedItem]


class ShownOperation(Operation):
    """One correction."""

    request_id: str


class SuggestedSide(Answer):
    """One identity of a pair, and its item that is most similar to the other identity."""

    identity_id: str
    name: str | None
    item_id: str
    image_url: str | None


class Suggestion(Answer):
    """Two identities that are likely one person; `score` is the cosine of their mean embeddings."""

    score: float
    identities: list[SuggestedSide]


class SuggestionsAnswer(Answer):
    """Pairs of identities, the likeliest first."""

    request_id: str
    model_version: str
    suggestions: list[Suggestion]
