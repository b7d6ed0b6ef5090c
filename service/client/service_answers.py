"""Answers about the service: networks, jobs, retention, erasures, statistics. Times are in UTC."""

from datetime import date, datetime
from typing import Any, Literal

from service.client.answers import Answer, Warned

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class ModelVersion(Answer):
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
    created_at: datetime
    activated_at: datetime | None
    card: dict[str, Any]
    evaluation: dict[str, Any] | None


class ModelsAnswer(Answer):
    """All registered versions, oldest first; `model_version` is the active one."""

    request_id: str
    model_version: str
    models: list[ModelVersion]


class FailedFile(Answer):
    """A file that an import did not enrol, by its position in the archive."""

    position: int
    name: str
    detail: str


class ExistingFile(Answer):
    """A file of an import whose crop was in the gallery already, with the item and the identity there."""

    position: int
    name: str
    item_id: str
    identity_id: str


class Job(Answer):
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
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def has_ended(self) -> bool:
        """Whether the job has succeeded, has failed or was cancelled."""
        return self.state not in ("queued", "running")


class HeldExpiry(Answer):
    """An expiry that waits for a person, and how many items are past their retention as of `as_of`."""

    reason: Literal["share", "clock"]
    since: datetime
    as_of: datetime
    num_items: int
    num_gallery: int
    detail: str


class RetentionAnswer(Answer):
    """How many days items are kept, and the expiry that waits for a confirmation, if one does."""

    request_id: str
    retention_days: float | None
    retention_days_by_camera: dict[str, float]
    retention_max_share: float
    held: HeldExpiry | None


class ConfirmationAnswer(Answer):
    """How many items are erased by a confirmation."""

    request_id: str
    as_of: datetime
    num_items: int


class Erased(Answer):
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


class Erasure(Answer):
    """The receipt of an erasure. `identity_sha256` is the hex digest of the identity's id in UTF-8."""

    sequence: int
    at: datetime
    reason: Literal["requested", "retention", "restored"]
    identity_sha256: str | None
    item_ids: list[str]
    erased: Erased
    out_of_reach: list[str]


class Session(Answer):
    """Who a client is to a service; `cameras` is None unless its key is limited to some cameras."""

    request_id: str
    is_open: bool
    name: str
    role: str
    cameras: list[str] | None


class JobsAnswer(Answer):
    """Jobs, the newest first."""

    request_id: str
    jobs: list[Job]


class Day(Answer):
    """The items that were enrolled on a day in UTC, and how many identities and cameras they are of."""

    day: date
    num_items: int
    num_identities: int
    num_cameras: int


class Versions(Answer):
    """The versions of the program, of its API and of its database schema, and the active network."""

    program: str
    api: str
    schema_version: str
    model_version: str | None


class Index(Answer):
    """The index of the process that answers, and how many changes it has still to apply."""

    kind: str
    model_version: str
    num_items: int
    num_changes_behind: int


class Storage(Answer):
    """The room on the fullest disk, the size of a gallery that is bounded, and whether items are refused."""

    is_full: bool
    free_bytes: int
    min_free_bytes: int
    gallery_bytes: int | None
    max_gallery_bytes: int | None


class ServiceState(Answer):
    """How the service does: index, disk, memory, and jobs by state."""

    index: Index
    storage: Storage
    memory_bytes: int | None
    num_jobs: dict[str, int]
    num_backfilling: int
    held_expiry: dict[str, Any] | None


class Stats(Answer):
    """What the gallery holds, in all and by the day of enrolment.

    `service` is None for a key that is limited to cameras.
    """

    request_id: str
    num_items: int
    num_identities: int
    num_cameras: int
    first_seen: datetime | None
    last_seen: datetime | None
    days: list[Day]
    versions: Versions
    runtime: str
    service: ServiceState | None
