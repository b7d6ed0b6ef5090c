"""Answers of a search and of a verification."""

from datetime import datetime

from pydantic import BaseModel

from service.api.schemas.gallery import image_url
from service.search.ranking import Match
from service.search.search import Answer
from service.search.verify import Verified
from service.serving.thresholds import Decision, Source


class MatchedItem(BaseModel):
    """An item of a match; `score` is its cosine similarity with the query."""

    id: str
    score: float
    camera_id: str | None
    captured_at: datetime | None
    track_id: str | None
    image_url: str | None


class RankedMatch(BaseModel):
    """A match: an identity, track, camera or item; `identity_id` and `score` are those of its best item."""

    rank: int
    identity_id: str
    score: float
    decision: Decision | None
    probability: float | None
    items: list[MatchedItem]


class Thresholds(BaseModel):
    """From the score `match` the decision is match, from the score `unsure` it is unsure, else unknown.

    The thresholds come from an evaluation of the model version on this gallery, or else from the card of the
    version. Without either, `source` is none, and there are no decisions and no probabilities.
    """

    match: float | None
    unsure: float | None
    source: Source


class SearchAnswer(BaseModel):
    """Matches, best first, among the `num_searched` items that passed the filters.

    `model_version` embedded the query, and `gallery_version` embedded the items. The two differ only while a
    compatible version takes over.

    `probability` is the calibrated chance that two crops show the same person, given equal prior odds. So
    `probability` does not depend on the number of people in the gallery.
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
        """Return the answer to a search."""
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
    """How similar two sets of crops are; `score` is the cosine similarity of their mean embeddings."""

    request_id: str
    model_version: str
    score: float
    decision: Decision | None
    probability: float | None
    thresholds: Thresholds

    @classmethod
    def of(cls, verified: Verified, request_id: str) -> "VerifyAnswer":
        """Return the answer to a comparison."""
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
