"""What a search asks, what it answers, and what the audit says of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from service.audit.entries import Person
from service.gallery.metadata import MAX_NAME, stored_form
from service.gallery.selection import Selection, filters_of
from service.keys.callers import Cameras
from service.search.ranking import Match
from service.search.sought import NOBODY, WEIGHTS, Sought
from service.serving.strangers import Strangers
from service.serving.thresholds import Thresholds
from service.store.tables import Item


@dataclass(frozen=True)
class Query:
    """The options of a search.

    Attributes:
        top_k: the most matches to return.
        group_by: what to rank: identities, tracks, cameras or items.
        among: the items to search.
        min_score: the lowest score of a match.
        sought: who is looked for, beside uploaded crops.
        cameras: the cameras that the caller is limited to; `among` must be within them.
    """

    top_k: int
    group_by: Literal["identity", "track", "camera", "item"]
    among: Selection
    min_score: float
    sought: Sought = NOBODY
    cameras: Cameras = None


@dataclass(frozen=True)
class Answer:
    """The answer of a search.

    Attributes:
        model_version: the version that embedded the query.
        gallery_version: the version whose embeddings were searched.
        num_searched: how many items passed the filter.
        num_identities: how many identities these items are of.
        strangers: what turns a score into expected strangers and a decision.
        thresholds: what turns a score into a probability.
        matches: the matches, best first.
        items: the database row of each item in the matches, by item id.
    """

    model_version: str
    gallery_version: str
    num_searched: int
    num_identities: int
    strangers: Strangers
    thresholds: Thresholds
    matches: list[Match]
    items: dict[str, Item]


@dataclass(frozen=True)
class BatchedQuery:
    """One query of a batch, and the places of its crops among the crops of the request, from 0."""

    query: Query
    images: tuple[int, ...]


@dataclass(frozen=True)
class Told:
    """What the audit says of a search."""

    people: list[Person]
    details: dict[str, Any]


def tell(query: Query, sha256s: Sequence[str], sought: Sequence[Person], answer: Answer) -> Told:
    """Return for the audit who was looked for, among whom, and who was found."""
    asked = (*query.among.identity_id, *query.among.exclude_identity_id)
    named = [Person("filter", stored_form(name)[:MAX_NAME]) for name in asked]
    found = [
        Person("returned", match.identity_id, match.items[0].item_id, round(match.score, 6))
        for match in answer.matches
    ]
    details = {
        "query_sha256": list(sha256s),
        "filters": filters_of(query.among),
        "top_k": query.top_k,
        "group_by": query.group_by,
        "min_score": query.min_score,
        **_parts_of(query.sought),
        "model_version": answer.model_version,
        "num_searched": answer.num_searched,
    }
    return Told([*sought, *named, *found], details)


def _parts_of(sought: Sought) -> dict[str, Any]:
    """Return what the audit says of a query beside its crops and people."""
    embeddings = [hashlib.sha256(text.encode()).hexdigest() for text in sought.embedding]
    weights = sought.model_dump(exclude_defaults=True, include=set(WEIGHTS))
    return weights | ({"embedding_sha256": embeddings} if embeddings else {})
