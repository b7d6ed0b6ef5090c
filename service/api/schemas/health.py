"""The answers of /livez, /readyz and /version."""

from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel

from service.people.expiry import Hold, Reason


class HeldExpiry(BaseModel):
    """An expiry that waits for a person, and how many items are past their retention."""

    reason: Reason
    since: datetime
    num_items: int

    @classmethod
    def of(cls, hold: Hold) -> Self:
        """Show an expiry that waits."""
        return cls(reason=hold.reason, since=hold.since, num_items=hold.num_items)


class Status(BaseModel):
    """Whether the process is alive or ready; if ready, what it serves, and any expiry that is on hold."""

    status: Literal["alive", "ready"]
    model_version: str | None = None
    runtime: str | None = None
    num_items: int | None = None
    held_expiry: HeldExpiry | None = None


class Versions(BaseModel):
    """The versions of what answers: the program, its API, its database schema, and the active network."""

    program: str
    api: str
    schema_version: str
    model_version: str | None
