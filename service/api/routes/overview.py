"""GET /cameras and GET /stats: what the gallery holds, and how the service does."""

import os
from collections import Counter
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query

from service.api.about import API_VERSION, program_version, schema_version
from service.api.problems import responses
from service.api.routes.dependencies import AnyCaller, Expiries, ReadyServing, ReadyStore, RequestId
from service.api.schemas.health import HeldExpiry, Storage, Versions
from service.api.schemas.overview import (
    CameraFields,
    CameraFilters,
    CamerasAnswer,
    IndexFields,
    ServiceFields,
    StatsAnswer,
    StatsPage,
)
from service.gallery.overview import count_gallery, list_cameras
from service.people.expiry import Expiry
from service.serving.generation import Generation
from service.store.store import Store
from service.upkeep.facts import read_facts

router = APIRouter(tags=["overview"])

PAGES_FILE = Path("/proc/self/statm")


@router.get("/cameras", responses=responses(422, 503))
def get_cameras(
    among: Annotated[CameraFilters, Query()], store: ReadyStore, request_id: RequestId, caller: AnyCaller
) -> CamerasAnswer:
    """List the cameras of the items that pass the filters, with what each has seen, and when."""
    cameras = [CameraFields.of(one) for one in list_cameras(store, among.within(caller.cameras))]
    return CamerasAnswer(request_id=request_id, cameras=cameras)


@router.get("/stats", responses=responses(422, 503))
def get_stats(
    page: Annotated[StatsPage, Query()],
    serving: ReadyServing,
    expiry: Expiries,
    request_id: RequestId,
    caller: AnyCaller,
) -> StatsAnswer:
    """Count items, identities and cameras, by day and in all, and say how the service does.

    A key that is limited to cameras is told the numbers of these cameras alone.
    """
    counts = count_gallery(serving.store, page.days, caller.cameras)
    generation = serving.current()
    versions = Versions(
        program=program_version(),
        api=API_VERSION,
        schema_version=schema_version(),
        model_version=generation.version,
    )
    service = _service(serving.store, generation, expiry) if caller.cameras is None else None
    return StatsAnswer.of(counts, request_id, versions, generation.embedder.runtime, service)


def _service(store: Store, generation: Generation, expiry: Expiry) -> ServiceFields:
    seen = generation.replica.sequence
    with store.read() as session:
        facts = read_facts(session)
    num_jobs: Counter[str] = Counter()
    for (_, state), num in facts.num_jobs.items():
        num_jobs[state] += num
    index = IndexFields(
        kind=generation.index.kind_in_use,
        model_version=generation.replica.version,
        num_items=len(generation.index),
        num_changes_behind=max(0, facts.newest_change - seen),
    )
    return ServiceFields(
        index=index,
        storage=Storage.of(store.room.usage()),
        memory_bytes=_memory_bytes(),
        num_jobs=num_jobs,
        num_backfilling=facts.num_backfilling,
        held_expiry=None if expiry.hold is None else HeldExpiry.of(expiry.hold),
    )


def _memory_bytes() -> int | None:
    """Return the memory that this process holds, which only Linux tells."""
    try:
        return int(PAGES_FILE.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
