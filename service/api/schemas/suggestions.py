"""The query parameters and the answer of suggestions: pairs of identities that are likely one person."""

from typing import Annotated

from pydantic import BaseModel, Field

from service.api.schemas.gallery import image_url
from service.api.schemas.pages import Limit
from service.gallery.metadata import OptionalSoughtName
from service.gallery.selection import Selection
from service.people.suggestions import PairMember, Suggestion


class SuggestionFields(Selection):
    """Which pairs to suggest. Identities are compared by the items that pass the filters."""

    limit: Limit = 20
    min_score: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] = 0.6
    of: Annotated[OptionalSoughtName, Field(description="Only pairs with this identity.")] = None


class SuggestedSide(BaseModel):
    """One identity of a pair, and its item that is most similar to the other identity."""

    identity_id: str
    name: str | None
    item_id: str
    image_url: str | None

    @classmethod
    def showing(cls, member: PairMember) -> "SuggestedSide":
        """Return one identity of a pair as answers show it."""
        return cls(
            identity_id=member.identity.id,
            name=member.identity.name,
            item_id=member.item.id,
            image_url=image_url(member.item),
        )


class SuggestedPair(BaseModel):
    """Two identities that are likely one person; `score` is the cosine of their mean embeddings."""

    score: float
    identities: list[SuggestedSide]

    @classmethod
    def showing(cls, suggestion: Suggestion) -> "SuggestedPair":
        """Return a pair as answers show it."""
        return cls(score=suggestion.score, identities=[SuggestedSide.showing(s) for s in suggestion.members])


class SuggestionsAnswer(BaseModel):
    """Pairs of identities, likeliest first."""

    request_id: str
    model_version: str
    suggestions: list[SuggestedPair]
