"""Answers of a search and of a verification."""

from datetime import datetime

from pydantic import BaseModel

from service.api.schemas.gallery import image_url
from service.search.ranking import Match
from service.search.search import Answer
from service.search.verify import Verified
from service.serving.thresholds import Decision, Source


class MatchedItem(BaseModel):
    """One of the items that speak for a match; `score` is its cosine with the query."""

    id: str
    score: float
    camera_id: str | None
    captured_at: datetime | None
    track_id: str | None
    image_url: str | None


class RankedMatch(BaseModel):
    """An identity, track, camera or item; its identity and score are those of its best item."""

    rank: int
    identity_id: str
    score: float
    decision: Decision | None
    probability: float | None
    items: list[MatchedItem]


class Thresholds(BaseModel):
    """From which score on a decision is match, and unsure; below it is unknown.

    They are of an evaluation of the model version on this gallery, or else from its card. Where there is
    neither, `source` is none, and there are no decisions and no probabilities.
    """

    match: float | None
    unsure: float | None
    source: Source


class SearchAnswer(BaseModel):
    """Matches, best first; `num_searched` items passed the filters.

    `model_version` embedded the query, `gallery_version` the items: the same, unless one has just been
    activated that is compatible with the other.

    A probability is that of one person, if of all pairs half are: a calibrated score, the same for all
    galleries.
    """

    request_id: str
    model_version: str
    gallery_version: str
    num_searched: int
    took_ms: float
    thresholds: Thresholds
    matches: list[RankedMatch]

    @classmethod
    def of(cls, answer: Answer, request_id: str, took_ms: float) -> "SearchAnswer":
        """Show what a search has found."""
        return cls(
            request_id=request_id,
            model_version=answer.model_version,
            gallery_version=answer.gallery_version,
            num_searched=answer.num_searched,
            took_ms=round(took_ms, 3),
            thresholds=Thresholds(**answer.thresholds.to_dict()),
            matches=[_ranked(rank, match, answer) for rank, match in enumerate(answer.matches, start=1)],
        )


class VerifyAnswer(BaseModel):
    """How alike two sets of crops are: `score` is the cosine of their mean embeddings."""

    request_id: str
    model_version: str
    score: float
    decision: Decision | None
    probability: float | None
    thresholds: Thresholds

    @classmethod
    def of(cls, verified: Verified, request_id: str) -> "VerifyAnswer":
        """Show what a comparison has found."""
        return cls(
            request_id=request_id,
            model_version=verified.model_version,
            score=verified.score,
            decision=verified.thresholds.decide(verified.score),
            probability=verified.thresholds.probability(verified.score),
            thresholds=Thresholds(**verified.thresholds.to_dict()),
        )


def _ranked(rank: int, match: Match, answer: Answer) -> RankedMatch:
    items = [
        MatchedItem(
            id=scored.item_id,
            score=scored.score,
            camera_id=answer.items[scored.item_id].camera_id,
            captured_at=answer.items[scored.item_id].captured_at,
            track_id=answer.items[scored.item_id].track_id,
            image_url=image_url(answer.items[scored.item_id]),
        )
        for scored in match.items
    ]
    return RankedMatch(
        rank=rank,
        identity_id=match.identity_id,
        score=match.score,
        decision=answer.thresholds.decide(match.score),
        probability=answer.thresholds.probability(match.score),
        items=items,
    )
