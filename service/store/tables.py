"""The SQL tables: the truth about the gallery, from which every index can be rebuilt.

An item has two names. The API shows its `id`, which is never used twice in any gallery. The index knows the
item by its `slot`, which is the number of the change that added the item. A row of `models` is a model
version: a registered checkpoint.
"""

import secrets
import time
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, ColumnElement, ForeignKey, Index, LargeBinary, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedColumn, mapped_column, relationship

from service.store.column_types import Number, UtcDateTime


def new_id() -> str:
    """Return 32 hex digits that sort by time: 48 bits of milliseconds, then 80 random bits."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


def _slot_of_item(*, is_indexed: bool) -> MappedColumn[int]:
    """Return a column of a primary key whose row is deleted with its item."""
    item = ForeignKey("items.slot", ondelete="CASCADE")
    return mapped_column(Number, item, primary_key=True, autoincrement=False, index=is_indexed or None)


class Table(DeclarativeBase):
    """Base of all tables; constraints have equal names everywhere, so that migrations can alter them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON}  # noqa: RUF012 - SQLAlchemy's own form


class Model(Table):
    """A model version; `state` is registered, active or retired, and at most one version is active."""

    __tablename__ = "models"

    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    filename: Mapped[str] = mapped_column(String(255))
    card: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    activated_at: Mapped[datetime | None]
    evaluation: Mapped[dict[str, Any] | None]
    """The result of the newest evaluation of this version on this gallery."""
    stand_in: Mapped[str | None] = mapped_column(String(64))
    """The compatible version whose embeddings are searched while this active version embeds the gallery."""


class Identity(Table):
    """A person as the gallery knows them: the items that share an identity id.

    An identity is deleted with its last item, unless somebody has made or described the identity: then
    `is_kept` is true. A key is never used twice, except that undoing a merge restores an identity under its
    old key.
    """

    __tablename__ = "identities"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - SQLAlchemy's own form

    key: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(255), unique=True)
    created_at: Mapped[datetime]
    name: Mapped[str | None] = mapped_column(String(255))
    notes: Mapped[str | None] = mapped_column(Text)
    is_kept: Mapped[bool] = mapped_column(default=False)
    attributes: Mapped[list["Attribute"]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True
    )


class Attribute(Table):
    """A name and a value that describe an identity, for filters of searches."""

    __tablename__ = "attributes"
    __table_args__ = (Index("ix_attributes_name_value", "name", "value"),)

    identity_key: Mapped[int] = mapped_column(
        ForeignKey("identities.key", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(255))


class Item(Table):
    """One enrolled crop; the CropStore has its bytes under `sha256`."""

    __tablename__ = "items"

    slot: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(String(32), unique=True)
    identity_key: Mapped[int] = mapped_column(ForeignKey("identities.key"), index=True)
    camera_id: Mapped[str | None] = mapped_column(String(255))
    captured_at: Mapped[datetime | None]
    track_id: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime]
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    content_type: Mapped[str] = mapped_column(String(32))
    width: Mapped[int]
    height: Mapped[int]
    duplicate_of: Mapped[str | None] = mapped_column(String(32), index=True)
    """The id of an earlier item of nearly the same picture."""
    has_crop: Mapped[bool] = mapped_column(default=True)
    """Whether the CropStore keeps the bytes; see REID_KEEP_CROPS."""
    identity: Mapped[Identity] = relationship(lazy="joined")


class Embedding(Table):
    """The embedding of one item by one model version: D float16, little endian; D is on the card."""

    __tablename__ = "embeddings"

    slot: Mapped[int] = _slot_of_item(is_indexed=False)
    model_version: Mapped[str] = mapped_column(
        String(64), ForeignKey("models.version", ondelete="CASCADE"), primary_key=True
    )
    values: Mapped[bytes] = mapped_column(LargeBinary)


class ReplacedEmbedding(Table):
    """An embedding that `reid check --repair` has replaced; `values` is what was stored before.

    The rows are kept for `REID_KEEP_REPAIRED_DAYS`, so that a repair can be undone. They go with their item.
    """

    __tablename__ = "replaced_embeddings"

    repair_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    slot: Mapped[int] = _slot_of_item(is_indexed=True)
    model_version: Mapped[str] = mapped_column(
        String(64), ForeignKey("models.version", ondelete="CASCADE"), primary_key=True
    )
    values: Mapped[bytes] = mapped_column(LargeBinary)
    replaced_at: Mapped[datetime] = mapped_column(index=True)


class Change(Table):
    """One change of the gallery, never altered.

    `kind` is added, updated, removed, erased, rebuilt, activated or compatible. A compatible version is
    active, and its embeddings are not searched yet.

    Sequence numbers have no gaps and grow in the order of the commits; see service/store/changes.py. The
    change itself is in the other tables: an index that follows the log reads the rows of the slots in it.
    """

    __tablename__ = "changes"

    sequence: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    slot: Mapped[int | None] = mapped_column(Number)
    at: Mapped[datetime]


class Gallery(Table):
    """The one row that every change of the gallery locks; `id` is random, and differs between databases."""

    __tablename__ = "galleries"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    newest_change: Mapped[int] = mapped_column(Number)


class Retention(Table):
    """The one row about expiries: the clock they went by, the expiry that waits, and what was confirmed.

    `checked_at` is the newest time of day at which the clock was right; see service/people/steadiness.py.
    `held_since` and `held_reason` are of an expiry that waits for a person. `confirmed_at` is the time as of
    which a person has confirmed what is past its retention by `confirmed_limits`, until that is erased.
    `accepted_at` changes when a person accepts a clock that has jumped.
    """

    __tablename__ = "retention"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    checked_at: Mapped[datetime | None]
    held_since: Mapped[datetime | None]
    held_reason: Mapped[str | None] = mapped_column(String(16))
    confirmed_at: Mapped[datetime | None]
    confirmed_limits: Mapped[str | None] = mapped_column(Text)
    accepted_at: Mapped[datetime | None]


class DoomedCrop(Table):
    """A crop whose bytes must be deleted from the disk, unless an item or a job needs them."""

    __tablename__ = "doomed_crops"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)


class Rejection(Table):
    """A statement by a user that an item does not show this identity."""

    __tablename__ = "rejections"

    identity_key: Mapped[int] = mapped_column(
        ForeignKey("identities.key", ondelete="CASCADE"), primary_key=True
    )
    slot: Mapped[int] = _slot_of_item(is_indexed=True)
    created_at: Mapped[datetime]


class Operation(Table):
    """A merge, split, reject or relabel; `key_id` made it and `undone_by` undid it, null without keys."""

    __tablename__ = "operations"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    undone_at: Mapped[datetime | None]
    key_id: Mapped[str | None] = mapped_column(String(16))
    undone_by: Mapped[str | None] = mapped_column(String(16))


class Move(Table):
    """An item that an operation has moved from one identity to another."""

    __tablename__ = "moves"

    operation_id: Mapped[str] = mapped_column(
        String(32), ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True
    )
    slot: Mapped[int] = _slot_of_item(is_indexed=True)
    from_key: Mapped[int]
    to_key: Mapped[int]


class FormerIdentity(Table):
    """The description of an identity before and after an operation that changed, made or deleted it.

    `before` is null if the operation made the identity, and `after` is null if the operation deleted it.
    """

    __tablename__ = "former_identities"

    operation_id: Mapped[str] = mapped_column(
        String(32), ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True
    )
    identity_key: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, index=True)
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]


class Erasure(Table):
    """A receipt of an erasure, by which the erasure can be repeated on an older backup.

    A receipt holds no name: item ids are random, and instead of the identity id there is its SHA-256.
    """

    __tablename__ = "erasures"

    sequence: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(String(16))
    identity_sha256: Mapped[str | None] = mapped_column(String(64))
    item_ids: Mapped[list[str]] = mapped_column(JSON)
    erased: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class KeptAnswer(Table):
    """The answer to a request with an Idempotency-Key; `status` is null while the request is in progress."""

    __tablename__ = "kept_answers"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    status: Mapped[int | None]
    headers: Mapped[dict[str, Any]]
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(index=True)
    alive_at: Mapped[datetime]


class Job(Table):
    """Work that outlives its request; `state` is queued, running, succeeded, failed or cancelled.

    The process that runs a job updates `alive_at` every half second. So another process on the same database,
    or the same one after a restart, can tell a running job from a job whose process has died.
    """

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    model_version: Mapped[str | None] = mapped_column(String(64))
    options: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    state: Mapped[str] = mapped_column(String(16), index=True)
    done: Mapped[int]
    total: Mapped[int]
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    alive_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    num_existing: Mapped[int] = mapped_column(default=0, server_default="0")  # crops that were there already
    key_id: Mapped[str | None] = mapped_column(String(16), index=True)  # who queued the job, if keys are used


class JobFile(Table):
    """A crop that a job is to enrol; the row is deleted at the enrolment.

    A crop that cannot be enrolled keeps its row with `error`. A crop that was in the gallery already, or that
    was enrolled with a warning, keeps its row with `item_id`.
    """

    __tablename__ = "job_files"

    job_id: Mapped[str] = mapped_column(
        String(32), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    label: Mapped[dict[str, Any]]
    error: Mapped[str | None] = mapped_column(Text)
    warning: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """The `code` and the `detail` of a warning about a crop that was enrolled."""
    item_id: Mapped[str | None] = mapped_column(String(32), index=True)
    """The item that the crop has become, or that was there already."""


def is_pending() -> ColumnElement[bool]:
    """Return the SQL condition for files that their job has not tried to enrol yet."""
    return JobFile.error.is_(None) & JobFile.item_id.is_(None)
