"""Types of the service's JSON answers. Times are RFC 3339 strings with a UTC offset."""

from typing import Any, Literal, NotRequired, TypedDict

Decision = Literal["match", "unsure", "unknown"]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class Item(TypedDict):
    """A crop in the gallery. `embedding`, present on request, is base64 of little-endian float16 values."""

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
    """An item of an enrolment. `is_new` is false if the gallery had the item before."""

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
    """The lowest score for the decisions "match" and "unsure", and what the thresholds were measured on."""

    match: float | None
    unsure: float | None
    source: str


class SearchCalibration(TypedDict):
    """What the expected strangers were counted on, and the numbers of them that decide.

    `source` is "evaluation" (`num_people` people of this gallery), "card" of the network, or "none".
    """

    source: str
    num_people: int | None
    match_below: float
    unsure_below: float


class MatchedItem(TypedDict):
    """An item of a match; `score` is its cosine similarity with the query."""

    id: str
    score: float
    camera_id: str | None
    captured_at: str | None
    track_id: str | None
    image_url: str | None


class Match(TypedDict):
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


class SearchAnswer(TypedDict):
    """The matches, best first. `num_searched` items of `num_identities` people passed the filters."""

    request_id: str
    model_version: str
    gallery_version: str
    num_searched: int
    num_identities: int
    took_ms: float
    calibration: SearchCalibration
    matches: list[Match]


class VerifyAnswer(TypedDict):
    """How alike two sets of crops are; `score` is the cosine similarity of their mean embeddings."""

    request_id: str
    model_version: str
    score: float
    decision: Decision | None
    probability_even_prior: float | None
    thresholds: Thresholds


class ModelVersion(TypedDict):
    """A registered model version.

    `num_embedded` items have an embedding by the version; `coverage` is their share of all items, 0 to 1.
    """

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


class ExistingFile(TypedDict):
    """A file of an import whose crop was in the gallery already, with the item and the identity there."""

    position: int
    name: str
    item_id: str
    identity_id: str


class Job(TypedDict):
    """A background job. `done` of `total` items are processed, and `done` includes the failed items.

    `errors`, `existing` and `warnings` hold the first 1,000 of the `num_failed`, `num_existing` and
    `num_warnings` files. `skipped` holds the numbers of files that are no crops, by kind. `result` is the
    result of an evaluation.
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
    num_enrolled: int
    num_existing: int
    num_failed: int
    num_skipped: int
    skipped: dict[str, int]
    errors: list[FailedFile]
    existing: list[ExistingFile]
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

    `crops_kept_for_others` counts crops that stay because items of other identities have the same bytes.
    `cleaned` says whether the erased data has also been removed from the files on the disk.
    """

    items: int
    embeddings: dict[str, int]
    replaced_embeddings: int
    crops: int
    crops_kept_for_others: int
    operations: int
    rejections: int
    kept_answers: int
    job_files: int
    audit_rows: int
    audit_hashes: list[str]
    audit_queries: int
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


class Session(TypedDict):
    """Who a client is to a service; `cameras` is None unless its key is limited to some cameras."""

    request_id: str
    is_open: bool
    name: str
    role: str
    cameras: list[str] | None
