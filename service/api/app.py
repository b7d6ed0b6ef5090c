"""create_app(settings): builds the whole service; nothing happens at import.

The server answers from the first moment, /livez with 200 and everything else with a 503 problem, while the
network and the index are loaded beside it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from threading import Event
from typing import Any

import structlog
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline
from sqlalchemy.exc import SQLAlchemyError

from service.api.edge import Edge
from service.api.idempotency import Claims, Idempotency
from service.api.problems import add_problem_handlers, document_problems, responses
from service.api.routes import (
    enrolment,
    erasures,
    gallery,
    health,
    identities,
    jobs,
    models,
    page,
    search,
    verify,
)
from service.api.routes.dependencies import refuse_unknown_fields
from service.errors import ServiceError
from service.gallery import imports
from service.jobs.workers import Worker
from service.people.retention import expire
from service.serving.generation import Generation
from service.serving.serving import Serving
from service.settings import MEBIBYTE, Settings
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.store.tables import now
from service.upkeep.orphans import purge_orphans
from service.upkeep.startup import start
from service.versions import activation, activation_queue, evaluation

logger = structlog.get_logger(__name__)

API_VERSION = "1"
TICK_S = 0.5
PEEK_S = 0.05
TIDY_S = 60.0
CLEAR_S = 3600.0

DESCRIPTION: dict[str, Any] = {
    "title": "reid-gallery",
    "version": API_VERSION,
    "summary": "Person re-identification gallery: enrol person crops, and find out who is on another one.",
    "generate_unique_id_function": lambda route: route.name,
}
"""What FastAPI is told of the service, for its OpenAPI document."""


def _ignore(_: object) -> None:
    """Do nothing."""


def create_app(
    settings: Settings,
    on_ready: Callable[[Generation], None] = _ignore,
    on_failed: Callable[[str], None] = _ignore,
) -> FastAPI:
    """Build the service; once it runs, `on_ready` or else `on_failed` is called in the event loop."""
    engine = make_engine(settings.database_url)
    store = Store(settings, make_sessions(engine))
    serving = Serving(store)
    claims = Claims(store)
    workers = (
        Worker(store, activation_queue.KIND, partial(activation.run_activation, serving)),
        Worker(store, evaluation.KIND, partial(evaluation.run_evaluation, store, serving.priority)),
        Worker(store, imports.KIND, partial(imports.run_import, serving), passing=(ServiceError,)),
    )

    following: list[asyncio.Task[None]] = []

    async def load() -> None:
        try:
            generation = await asyncio.to_thread(start, serving, engine)
            while generation is None and not store.stopping.is_set():
                await asyncio.sleep(TICK_S)
                generation = await asyncio.to_thread(start, serving, engine)
        except Exception as error:
            reason = str(error) if isinstance(error, ServiceError) else f"{type(error).__name__}: {error}"
            is_expected = isinstance(error, ServiceError)
            logger.log(logging.ERROR, "start failed", reason=reason, exc_info=not is_expected)
            serving.fail(f"the service could not start: {reason}")
            on_failed(reason)
        else:
            if generation is None:
                return
            serving.replace(generation)
            on_ready(generation)
            works = ((beat, TICK_S), (follow, TICK_S), (tidy, TIDY_S), (clear, CLEAR_S))
            following.extend(asyncio.create_task(repeat(*work)) for work in works)
            following.append(asyncio.create_task(repeat(do_jobs, TICK_S, store.has_job)))

    def beat() -> None:
        for worker in workers:
            worker.keep_alive()
        claims.keep_alive()

    def follow() -> None:
        store.purge_doomed()
        serving.refresh()
        serving.discard_erased()
        serving.save_snapshot()

    def do_jobs() -> None:
        store.has_job.clear()
        for worker in workers:
            worker.run_due()

    def tidy() -> None:
        claims.drop_old()
        expire(store, now())

    def clear() -> None:
        purge_orphans(store, now())

    async def pause(hurry: Event) -> None:
        """Wait for a tick, or until there is a hurry."""
        until_s = time.monotonic() + TICK_S
        while time.monotonic() < until_s and not hurry.is_set():
            await asyncio.sleep(PEEK_S)

    async def repeat(work: Callable[[], None], every_s: float, hurry: Event = store.stopping) -> None:
        """Do this again and again, also while nobody asks for anything."""
        trouble, due_s = "", 0.0
        while not store.stopping.is_set():
            await pause(hurry)
            if time.monotonic() < due_s:
                continue
            due_s = time.monotonic() + every_s - TICK_S
            try:
                await asyncio.to_thread(work)
                trouble = ""
            except (ServiceError, SQLAlchemyError, OSError) as error:
                if trouble != (trouble := str(error)):
                    logger.warning("cannot follow the gallery", reason=trouble)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(load())
        yield
        store.stopping.set()
        store.has_job.set()  # wakes the loop that waits for a job, which watches this event alone
        await loading
        await asyncio.gather(*following)
        for worker in workers:
            await asyncio.to_thread(worker.wait)
        await asyncio.to_thread(serving.close)
        engine.dispose()

    app = FastAPIOffline(redoc_url=None, lifespan=lifespan, **DESCRIPTION)
    app.state.serving = serving
    _add_routes(app)
    app.openapi = _document  # type: ignore[method-assign]  # as FastAPI documents it
    app.mount("/web", page.files)
    add_problem_handlers(app)
    app.add_middleware(Idempotency, claims=claims, require_ready=serving.current)
    app.add_middleware(Edge, max_body_bytes=_max_body_bytes(settings))
    return app


def _add_routes(app: FastAPI) -> None:
    """Add every endpoint; those of the API refuse fields that they do not have."""
    for resource in (enrolment, gallery, search, verify, identities, erasures, models, jobs):
        strict = [Depends(refuse_unknown_fields)]
        app.include_router(resource.router, dependencies=strict, responses=responses(422))
    for resource in (health, page):
        app.include_router(resource.router)


@cache
def _document() -> dict[str, Any]:
    """Return the OpenAPI document; no setting changes it, so a process builds it once for all its apps."""
    app = FastAPI(**DESCRIPTION)
    _add_routes(app)
    document_problems(app)
    return app.openapi()


def _max_body_bytes(settings: Settings) -> dict[str, int]:
    """Return how long a request's body may be, by path: its files, and room for the fields."""
    return {
        "": MEBIBYTE,
        "/gallery": max(enrolment.MAX_IMAGES * settings.max_upload_bytes, settings.max_archive_bytes)
        + 2 * MEBIBYTE,
        "/search": search.MAX_IMAGES * settings.max_upload_bytes + MEBIBYTE,
        "/verify": 2 * search.MAX_IMAGES * settings.max_upload_bytes + MEBIBYTE,
        "/models": settings.max_checkpoint_bytes + MEBIBYTE,
    }
