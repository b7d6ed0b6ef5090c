"""The query parameters and the answer of the audit."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from service.api.schemas.pages import Page
from service.audit.reading import Wanted
from service.gallery.metadata import OptionalSoughtName, OptionalTime


class AuditPage(Page):
    """Which rows to show: a row must meet every field that is given."""

    action: Annotated[str | None, Field(max_length=32, description="Only rows of this action.")] = None
    key_id: Annotated[str | None, Field(max_length=16, description="Only rows of this key.")] = None
    identity_id: Annotated[OptionalSoughtName, Field(description="Only rows that mention this identity.")] = (
        None
    )
    item_id: Annotated[str | None, Field(max_length=32, description="Only rows that mention this item.")] = (
        None
    )
    since: Annotated[OptionalTime, Field(description="Only rows of this time or later (RFC 3339).")] = None
    until: Annotated[OptionalTime, Field(description="Only rows before this time (RFC 3339).")] = None

    def wanted(self) -> Wanted:
        """Return which rows are wanted."""
        return Wanted(self.action, self.key_id, self.identity_id, self.item_id, self.since, self.until)


class MentionedPerson(BaseModel):
    """A person in a row; after an erasure `erased_as` is all that is left, and the receipt has it too."""

    relation: str | None = None
    identity_id: str | None = None
    item_id: str | None = None
    score: float | None = None
    salt: str | None = None
    erased_as: str | None = None


class AuditRowFields(BaseModel):
    """Who did what, and how it ended; `mac` seals the row and those before it."""

    sequence: int
    at: datetime
    key_id: str | None
    name: str
    role: str
    address: str | None
    request_id: str | None
    action: str
    outcome: str
    details: dict[str, Any]
    people: list[MentionedPerson]
    commitments: list[str]
    sealed_by: str
    mac: str


class AuditAnswer(BaseModel):
    """A page of rows, oldest first; `head` is the newest row of all, for `reid audit verify --head`."""

    request_id: str
    head: str
    rows: list[AuditRowFields]
    next_cursor: str | None
