"""The SQL tables of the audit: who did what, sealed row by row."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from service.store.column_types import Number
from service.store.tables import Table


class AuditRow(Table):
    """One request that changed something or searched. Rows are only added; `mac` seals all up to this one.

    What a row says of people is in `AuditPerson`. The row itself has a commitment to each of them, so their
    words can be erased and the seal holds.
    """

    __tablename__ = "audit_rows"

    sequence: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(index=True)
    key_id: Mapped[str | None] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(String(16))
    address: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(32))
    outcome: Mapped[str] = mapped_column(String(32))
    details: Mapped[dict[str, Any]]
    commitments: Mapped[list[str]] = mapped_column(JSON)
    sealed_by: Mapped[str] = mapped_column(String(16))
    """The name of the secret that has sealed the row."""
    mac: Mapped[str] = mapped_column(String(64))


class AuditPerson(Table):
    """A person in a row of the audit: whom it changed, found or filtered by.

    An erasure clears every word, and leaves `erased_as`, a keyed hash that its receipt names.
    """

    __tablename__ = "audit_people"

    sequence: Mapped[int] = mapped_column(
        Number, ForeignKey("audit_rows.sequence", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    place: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    relation: Mapped[str | None] = mapped_column(String(16))
    identity_id: Mapped[str | None] = mapped_column(String(255), index=True)
    item_id: Mapped[str | None] = mapped_column(String(32), index=True)
    score: Mapped[float | None]
    salt: Mapped[str | None] = mapped_column(String(32))
    erased_as: Mapped[str | None] = mapped_column(String(64))
    erasure_mac: Mapped[str | None] = mapped_column(String(64))


class AuditQuery(Table):
    """The crop of a query that a row is about, kept on the disk; only REID_AUDIT_KEEP_QUERIES writes any."""

    __tablename__ = "audit_queries"

    sequence: Mapped[int] = mapped_column(
        Number, ForeignKey("audit_rows.sequence", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class AuditChain(Table):
    """The one row about the chain: its newest row, and the newest of the rows whose retention is over."""

    __tablename__ = "audit_chains"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    newest: Mapped[int] = mapped_column(Number)
    mac: Mapped[str] = mapped_column(String(64))
    expired: Mapped[int] = mapped_column(Number)
    expired_mac: Mapped[str] = mapped_column(String(64))
    expired_seal: Mapped[str | None] = mapped_column(String(64))
