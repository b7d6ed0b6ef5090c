"""Types of the answers of the service, which are JSON objects. Times are RFC 3339 strings with an offset."""

from typing import Any, Literal, NotRequired, TypedDict

Decision = Literal["match", "unsure", "unknown"]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class Item(TypedDict):
    """A crop in the gallery. `embedding`, if it was asked for, is base64 of little-endian float16."""

    id: str
    identity_id: str
    camera_id: str | None
    captured_at: str | None
    track_id: str | None
    created_at: str
    sha256: str
    width: int
    height: int
    duplicate_of: str | None
    model_version: str
    image_url: str | None
    embedding: NotRequired[str | None]


class EnrolledItem(Item):
    """An item that a request enrolled; it was there already unless it `is_new`."""

    is_new: bool


class Warned(TypedDict):
    """What is doubtful about a crop that was enrolled: its place in the request, its name, and what to do."""

    position: int
    name: str
    code: Literal["implausible_time", "past_retention"]
    detail: str


class EnrolmentAnswer(TypedDict):
    """The items of an enrolment, in the order of its crops, and what is doubtful about them."""

    request_id: str
    model_version: str
    items: list[EnrolledItem]
    warnings: list[Warned]


class Thresholds(TypedDict):
    """The least score of a match and of an unsure match, and what they were measured on."""

    match: float | None
    unsure: float | None
    source: str


class MatchedItem(TypedDict):
    """An item of a match; `score` is its cosine similarity with the query."""

    id: str
    score: float
    camera_id: str | None
    captured_at: str | None
    track_id: str | None
    image_url: str | None


class Match(TypedDict):
    """An identity, track, camera or item that was found, with its best items, best first."""

    rank: int
    identity_id: str
    score: float
    decision: Decision | None
    probability: float | None
    items: list[MatchedItem]


class SearchAnswer(TypedDict):
    """Matches, best first, among `num_searched` items."""

    request_id: str
    model_version: str
    gallery_version: str
    num_searched: int
    took_ms: float
    thresholds: Thresholds
    matches: list[Match]


class VerifyAnswer(TypedDict):
    """How alike two sets of crops are; `score` is the cosine similarity of their mean embeddings."""

    request_id: str
    model_version: str
    score: float
    decision: Decision | None
    probability: float | None
    thresholds: Thresholds


class ModelVersion(TypedDict):
    """A registered network. `num_embedded` items, a share of `coverage`, have an embedding by it."""

    version: str
    state: str
    failure: str | None
    architecture: str
    embedding_size: int
    height: int
    width: int
    num_embedded: int
    coverage: float
    num_bytes: int
    created_at: str
    activated_at: str | None
    card: dict[str, Any]
    evaluation: dict[str, Any] | None


class ModelsAnswer(TypedDict):
    """All registered versions, oldest first; `model_version` is the active one."""

    request_id: str
    model_version: str
    models: list[ModelVersion]


class FailedFile(TypedDict):
    """A file that an import did not enrol, by its position in the archive."""

    position: int
    name: str
    detail: str


class Job(TypedDict):
    """Work in the background: `done` of `total` items, failed ones included.

    `errors` holds the first 1,000 of `num_failed` files, and `warnings` the first 1,000 of the files that
    were enrolled and are doubtful. `result` is what an evaluation has found.
    """

    request_id: str
    id: str
    kind: str
    model_version: str | None
    state: JobState
    done: int
    total: int
    rate: float
    seconds_left: float | None
    error: str | None
    result: dict[str, Any] | None
    num_failed: int
    num_skipped: int
    errors: list[FailedFile]
    num_warnings: int
    warnings: list[Warned]
    created_at: str
    started_at: str | None
    finished_at: str | None


class HeldExpiry(TypedDict):
    """An expiry that waits for a person, and how many items are past their retention as of `as_of`."""

    reason: Literal["share", "clock"]
    since: str
    as_of: str
    num_items: int
    num_gallery: int
    detail: str


class RetentionAnswer(TypedDict):
    """How many days items are kept, and the expiry that waits for a confirmation, if one does."""

    request_id: str
    retention_days: float | None
    retention_days_by_camera: dict[str, float]
    retention_max_share: float
    held: HeldExpiry | None


class ConfirmationAnswer(TypedDict):
    """How many items are erased by a confirmation."""

    request_id: str
    as_of: str
    num_items: int


class Erased(TypedDict):
    """How much an erasure deleted.

    `crops_kept_for_others` are crops that items of other identities show too. `cleaned` says that the bytes
    are gone from the disk as well.
    """

    items: int
    embeddings: dict[str, int]
    crops: int
    crops_kept_for_others: int
    operations: int
    rejections: int
    kept_answers: int
    job_files: int
    snapshots: int
    cleaned: bool


class Erasure(TypedDict):
    """The receipt of an erasure. `identity_sha256` is the hex digest of the identity's id in UTF-8."""

    sequence: int
    at: str
    reason: Literal["requested", "retention", "restored"]
    identity_sha256: str | None
    item_ids: list[str]
    erased: Erased
    out_of_reach: list[str]
