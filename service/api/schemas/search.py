"""Answers of a search and of a verification."""

from datetime import datetime

from pydantic import BaseModel

from service.api.schemas.gallery import image_url
from service.search.queries import Answer
from service.search.ranking import Match
from service.search.verify import Verified
from service.serving.strangers import Decision, Source, Strangers


class MatchedItem(BaseModel):
    """An item of a match; `score` is its cosine similarity with the query."""

    id: str
    score: float
    camera_id: str | None
    captured_at: datetime | None
    track_id: str | None
    image_url: str | None


class RankedMatch(BaseModel):
    """A match: an identity, track, camera or item; `identity_id` and `score` are those of its best item.

    `expected_strangers` is how many other people of those searched would score as high by chance, and
    `decision` follows from it. Both are null if the model version has no calibration for searches.
    `probability_even_prior` is the calibrated chance that two crops show the same person, if half of all
    pairs did. It does not depend on how many people are searched.
    """

    rank: int
    identity_id: str
    score: float
    expected_strangers: float | None
    decision: Decision | None
    probability_even_prior: float | None
    items: list[MatchedItem]


class Thresholds(BaseModel):
    """From the score `match` the decision is match, from the score `unsure` it is unsure, else unknown.

    The thresholds come from an evaluation of the model version on this gallery, or else from the card of the
    version. Without either, `source` is none, and there are no decisions and no probabilities.
    """

    match: float | None
    unsure: float | None
    source: Source


class SearchCalibration(BaseModel):
    """Where `expected_strangers` comes from, and the numbers of expected strangers that decide.

    `source` is evaluation if `num_people` labelled people of this gallery were counted, card if the rates are
    those of the model version's card, and none if there are no rates. Below `match_below` expected strangers
    the decision is match, below `unsure_below` it is unsure, and else unknown.
    """

    source: Source
    num_people: int | None
    match_below: float
    unsure_below: float

    @classmethod
    def of(cls, strangers: Strangers) -> "SearchCalibration":
        """Return what decides a search."""
        return cls(
            source=strangers.source,
            num_people=strangers.rates.num_identities if strangers.rates else None,
            match_below=strangers.match_below,
            unsure_below=strangers.unsure_below,
        )


class SearchAnswer(BaseModel):
    """Matches, best first, among the `num_searched` items of `num_identities` people that passed the filters.

    `model_version` embedded the query, and `gallery_version` embedded the items. The two differ only while a
    compatible version takes over.
    """

    request_id: str
    model_version: str
    gallery_version: str
    num_searched: int
    num_identities: int
    took_ms: float
    calibration: SearchCalibration
    matches: list[RankedMatch]

    @classmethod
    def of(cls, answer: Answer, request_id: str, took_ms: float) -> "SearchAnswer":
        """Return the answer to a search."""
        return cls(
            request_id=request_id,
            model_version=answer.model_version,
            gallery_version=answer.gallery_version,
            num_searched=answer.num_searched,
            num_identities=answer.num_identities,
            took_ms=round(took_ms, 3),
            calibration=SearchCalibration.of(answer.strangers),
            matches=[_ranked(rank, match, answer) for rank, match in enumerate(answer.matches, start=1)],
        )


class VerifyAnswer(BaseModel):
    """How similar two sets of crops are; `score` is the cosine similarity of their mean embeddings."""

    request_id: str
    model_version: str
    score: float
    decision: Decision | None
    probability_even_prior: float | None
    thresholds: Thresholds

    @classmethod
    def of(cls, verified: Verified, request_id: str) -> "VerifyAnswer":
        """Return the answer to a comparison."""
        return cls(
            request_id=request_id,
            model_version=verified.model_version,
            score=verified.score,
            decision=verified.thresholds.decide(verified.score),
            probability_even_prior=verified.thresholds.probability(verified.score),
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
    expected = answer.strangers.expected(match.score, answer.num_identities)
    return RankedMatch(
        rank=rank,
        identity_id=match.identity_id,
        score=match.score,
        expected_strangers=expected,
        decision=answer.strangers.decide(expected),
        probability_even_prior=answer.thresholds.probability(match.score),
        items=items,
    )
