"""The query parameters and the answers of /cameras and /stats: what the gallery holds, counted."""

import datetime as dt
from typing import Annotated, Self

from pydantic import BaseModel, Field

from service.api.schemas.health import HeldExpiry, Storage, Versions
from service.api.schemas.strict import StrictModel
from service.gallery.overview import CameraSummary, Counts
from service.gallery.selection import Selection

MAX_DAYS = 92


class CameraFilters(Selection):
    """Whose cameras to list: those of the items that pass the filters."""


class CameraFields(BaseModel):
    """A camera; `first_seen` and `last_seen` are the earliest and the latest time of its items."""

    id: str
    num_items: int
    num_identities: int
    first_seen: dt.datetime | None
    last_seen: dt.datetime | None

    @classmethod
    def of(cls, camera: CameraSummary) -> Self:
        """Return a camera as answers show it."""
        return cls(
            id=camera.camera_id,
            num_items=camera.num_items,
            num_identities=camera.num_identities,
            first_seen=camera.first_seen,
            last_seen=camera.last_seen,
        )


class CamerasAnswer(BaseModel):
    """All cameras that the caller sees, sorted by their ids."""

    request_id: str
    cameras: list[CameraFields]


class StatsPage(StrictModel):
    """How far back to count."""

    days: Annotated[
        int,
        Field(ge=0, le=MAX_DAYS, description="How many days of enrolments to count, up to today (UTC)."),
    ] = 7


class DayFields(BaseModel):
    """The items that were enrolled on a day in UTC, and how many identities and cameras they are of."""

    day: dt.date
    num_items: int
    num_identities: int
    num_cameras: int


class IndexFields(BaseModel):
    """The index of the process that answers: which searches it does, and how far it follows the changes.

    `num_changes_behind` changes are in the database and not in the index yet; each search applies them first.
    """

    kind: str
    model_version: str
    num_items: int
    num_changes_behind: int


class ServiceFields(BaseModel):
    """How the service does, which concerns all cameras.

    `memory_bytes` is what the process that answers holds in memory, or null where the system does not tell.
    `num_jobs` has the numbers of jobs by state. `num_backfilling` items are still to be embedded by an
    activation.
    """

    index: IndexFields
    storage: Storage
    memory_bytes: int | None
    num_jobs: dict[str, int]
    num_backfilling: int
    held_expiry: HeldExpiry | None


class StatsAnswer(BaseModel):
    """What the gallery holds, of the cameras that the caller sees, by day and in all.

    `service` is null for a key that is limited to cameras.
    """

    request_id: str
    num_items: int
    num_identities: int
    num_cameras: int
    first_seen: dt.datetime | None
    last_seen: dt.datetime | None
    days: list[DayFields]
    versions: Versions
    runtime: str
    service: ServiceFields | None

    @classmethod
    def of(
        cls, counts: Counts, request_id: str, versions: Versions, runtime: str, service: ServiceFields | None
    ) -> Self:
        """Return the answer for what was counted."""
        days = [DayFields(**vars(day)) for day in counts.days]
        fields = {**vars(counts), "days": days}
        return cls(request_id=request_id, versions=versions, runtime=runtime, service=service, **fields)
