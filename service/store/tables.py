"""The SQL tables: the truth about the gallery, from which every index can be rebuilt.

An item has two names: `id`, which the API shows and which is never used twice anywhere, and `slot`, the
number of the change that added it, by which the index knows it. "Models" are networks here: checkpoints.
"""

import secrets
import time
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator


def new_id() -> str:
    """Return 32 hex digits that sort by the time they were made (48 bits of milliseconds, 80 of chance)."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def now() -> datetime:
    """Return the time, aware, in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, kept and given back in UTC; SQLite alone would lose the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Turn an aware time into UTC.

        Raises:
            ValueError: if the time is naive.
        """
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"expected an aware time, got {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give the zone back where the database has dropped it."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Number = BigInteger().with_variant(Integer, "sqlite")
"""Of a change: 64 bits; SQLite's integers have them by themselves, and only those name its rows."""


class Table(DeclarativeBase):
    """Base of all tables; constraints have the same names on every database, for migrations to alter."""

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
    """A registered checkpoint; `state` is registered, active or retired, and one at most is active."""

    __tablename__ = "models"

    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    filename: Mapped[str] = mapped_column(String(255))
    card: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    activated_at: Mapped[datetime | None]
    evaluation: Mapped[dict[str, Any] | None]
    """What the newest evaluation on this gallery found."""
    stand_in: Mapped[str | None] = mapped_column(String(64))
    """The version whose embeddings are searched while those of this one, active already, are being made."""


class Identity(Table):
    """A person, as far as the gallery knows: the items that share an identity id.

    One that nobody has asked to keep, by making or describing it, goes with its last item. A key is never
    used twice; only undoing a merge puts an identity back under the key it had.
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
    """One thing that people have said of an identity, to search by."""

    __tablename__ = "attributes"
    __table_args__ = (Index("ix_attributes_name_value", "name", "value"),)

    identity_key: Mapped[int] = mapped_column(
        ForeignKey("identities.key", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(255))


class Item(Table):
    """One enrolled crop; its bytes are in the CropStore under `sha256`."""

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
    """The id of an earlier item that is nearly the same picture."""
    has_crop: Mapped[bool] = mapped_column(default=True)
    """Whether its bytes are kept at all; see REID_KEEP_CROPS."""
    identity: Mapped[Identity] = relationship(lazy="joined")


class Embedding(Table):
    """The embedding of one item by one model version: float16, little endian, as long as its card says."""

    __tablename__ = "embeddings"

    slot: Mapped[int] = mapped_column(
        Number, ForeignKey("items.slot", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    model_version: Mapped[str] = mapped_column(
        String(64), ForeignKey("models.version", ondelete="CASCADE"), primary_key=True
    )
    values: Mapped[bytes] = mapped_column(LargeBinary)


class Change(Table):
    """One change of the gallery, never altered.

    It is added, updated, removed, erased, rebuilt, activated, or compatible: active, but not searched yet.

    Sequence numbers have no gaps and grow in the order of the commits; see service/store/changes.py. What has
    changed is in the other tables: whoever follows the log reads them anew for the slots that it names.
    """

    __tablename__ = "changes"

    sequence: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    slot: Mapped[int | None] = mapped_column(Number)
    at: Mapped[datetime]


class Gallery(Table):
    """The one row that every change of this gallery waits for; `id` tells it from other databases."""

    __tablename__ = "galleries"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    newest_change: Mapped[int] = mapped_column(Number)


class DoomedCrop(Table):
    """A crop whose bytes must go from the disk, unless an item still refers to it."""

    __tablename__ = "doomed_crops"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)


class Rejection(Table):
    """Someone has said that an item does not show this identity."""

    __tablename__ = "rejections"

    identity_key: Mapped[int] = mapped_column(
        ForeignKey("identities.key", ondelete="CASCADE"), primary_key=True
    )
    slot: Mapped[int] = mapped_column(
        Number,
        ForeignKey("items.slot", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        index=True,
    )
    created_at: Mapped[datetime]


class Operation(Table):
    """A merge, split or relabel, with what it takes to undo it."""

    __tablename__ = "operations"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    undone_at: Mapped[datetime | None]


class Move(Table):
    """An operation has given an item from one identity to another."""

    __tablename__ = "moves"

    operation_id: Mapped[str] = mapped_column(
        String(32), ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True
    )
    slot: Mapped[int] = mapped_column(
        Number,
        ForeignKey("items.slot", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        index=True,
    )
    from_key: Mapped[int]
    to_key: Mapped[int]


class FormerIdentity(Table):
    """What an operation has found of an identity that it then changed, made or did away with.

    `before` and `after` say all there is to say of it, and are null where there was no such identity.
    """

    __tablename__ = "former_identities"

    operation_id: Mapped[str] = mapped_column(
        String(32), ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True
    )
    identity_key: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, index=True)
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]


class Erasure(Table):
    """A receipt: what has been erased, so that a backup from before can be rid of it too.

    It holds no name: item ids are chance, and of the identity id there is the SHA-256.
    """

    __tablename__ = "erasures"

    sequence: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(String(16))
    identity_sha256: Mapped[str | None] = mapped_column(String(64))
    item_ids: Mapped[list[str]] = mapped_column(JSON)
    erased: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class KeptAnswer(Table):
    """What a request with an Idempotency-Key was answered; no status while it is under way."""

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

    Whoever runs it says so every few seconds in `alive_at`: another process on the same database, or the same
    one started anew, can tell work that goes on from work that has died.
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


class JobFile(Table):
    """A crop in the CropStore that a job is to enrol; gone when it is enrolled, kept with its error."""

    __tablename__ = "job_files"

    job_id: Mapped[str] = mapped_column(
        String(32), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    label: Mapped[dict[str, Any]]
    error: Mapped[str | None] = mapped_column(Text)
