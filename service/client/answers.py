"""Answers about crops: items, enrolments, searches, cameras. Times are in UTC."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

Decision = Literal["match", "unsure", "unknown"]


class Answer(BaseModel):
    """What the service answers. Members that a newer service adds are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class Item(Answer):
    """A crop in the gallery. `embedding`, present on request, is base64 of little-endian float16 values."""

    id: str
    identity_id: str
    camera_id: str | None
    captured_at: datetime | None
    track_id: str | None
    created_at: datetime
    sha256: str
    width: int
    height: int
    duplicate_of: str | None
    model_version: str
    image_url: str | None
    embedding: str | None = None


class EnrolledItem(Item):
    """An item of an enrolment. `is_new` is false if the gallery had the item before."""

    is_new: bool


class Warned(Answer):
    """What is doubtful about a crop that was enrolled: its place in the request, its name, and what to do."""

    position: int
    name: str
    code: Literal["implausible_time", "past_retention"]
    detail: str


class EnrolmentAnswer(Answer):
    """The items of an enrolment, in the order of its crops, and what is doubtful about them."""

    request_id: str
    model_version: str
    items: list[EnrolledItem]
    warnings: list[Warned]


class Thresholds(Answer):
    """The lowest score for the decisions "match" and "unsure", and what the thresholds were measured on."""

    match: float | None
    unsure: float | None
    source: str


class SearchCalibration(Answer):
    """What the expected strangers were counted on, and the numbers of them that decide.

    `source` is "evaluation" (`num_people` people of this gallery), "card" of the network, or "none".
    """

    source: str
    num_people: int | None
    match_below: float
    unsure_below: float


class MatchedItem(Answer):
    """An item of a match; `score` is its cosine similarity with the query."""

    id: str
    score: float
    camera_id: str | None
    captured_at: datetime | None
    track_id: str | None
    image_url: str | None


class Match(Answer):
    """An identity, track, camera or item that a search found, with its best items, best first.

    `expected_strangers` is how many other people of those searched would score as high by chance.
    """

    rank: int
    identity_id: str
    score: float
    expected_strangers: float | None
    decision: Decision | None
    probability_even_prior: float | None
    items: list[MatchedItem]


class SearchAnswer(Answer):
    """The matches, best first. `num_searched` items of `num_identities` people passed the filters."""

    request_id: str
    model_version: str
    gallery_version: str
    num_searched: int
    num_identities: int
    took_ms: float
    calibration: SearchCalibration
    matches: list[Match]


class BatchAnswer(Answer):
    """The answers to several searches, in their order."""

    request_id: str
    took_ms: float
    answers: list[SearchAnswer]


class VerifyAnswer(Answer):
    """How alike two sets of crops are; `score` is the cosine similarity of their mean embeddings."""

    request_id: str
    model_version: str
    score: float
    decision: Decision | None
    probability_even_prior: float | None
    thresholds: Thresholds


class CorrectedItem(Item):
    """A corrected item; `operation_id`, if its identity has changed, can be undone."""

    request_id: str
    operation_id: str | None
    warnings: list[Warned]


class ShownItem(Item):
    """One item."""

    request_id: str


class DeletionAnswer(Answer):
    """How many items pass the filters, and whether they were deleted."""

    request_id: str
    num_items: int
    deleted: bool


class Camera(Answer):
    """A camera with its counts, and the times of its earliest and its latest item."""

    id: str
    num_items: int
    num_identities: int
    first_seen: datetime | None
    last_seen: datetime | None


class CamerasAnswer(Answer):
    """The cameras, sorted by their ids."""

    request_id: str
    cameras: list[Camera]
