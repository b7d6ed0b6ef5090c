"""The answers of /livez, /readyz and /version."""

from dataclasses import asdict
from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel

from service.people.expiry import Hold, Reason
from service.store.room import Usage


class HeldExpiry(BaseModel):
    """An expiry that waits for a person, and how many items are past their retention."""

    reason: Reason
    since: datetime
    num_items: int

    @classmethod
    def of(cls, hold: Hold) -> Self:
        """Show an expiry that waits."""
        return cls(reason=hold.reason, since=hold.since, num_items=hold.num_items)


class Storage(BaseModel):
    """The room on the fullest disk, the size of a gallery that is bounded, and whether items are refused."""

    is_full: bool
    free_bytes: int
    min_free_bytes: int
    gallery_bytes: int | None = None
    max_gallery_bytes: int | None = None

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """Show how much room there is."""
        return cls(**asdict(usage))


class Status(BaseModel):
    """Whether the process is alive or ready; and what of the gallery the caller may know."""

    status: Literal["alive", "ready"]
    model_version: str | None = None
    runtime: str | None = None
    num_items: int | None = None
    storage: Storage | None = None
    held_expiry: HeldExpiry | None = None


class Versions(BaseModel):
    """The versions of what answers: the program, its API, its database schema, and the active network."""

    program: str
    api: str
    schema_version: str
    model_version: str | None
