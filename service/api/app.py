"""create_app(settings) builds the whole service; importing this module does nothing.

The server listens before it has loaded the network and the index. Until both are loaded, /livez answers 200,
and a request that needs them gets a 503 problem.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from service.api.about import API_VERSION
from service.api.access import Access, Callers, document_access
from service.api.admission import LIMITS, Admission, FullQueues, Limit, Turns, make_turns
from service.api.audit import Audited
from service.api.background import Background
from service.api.claims import Claims
from service.api.cursors import Cursors
from service.api.examples import document_examples, document_summaries
from service.api.idempotency import Idempotency
from service.api.middleware import BodyLimit, FormKind, HeadRequests, Ranges, RequestId, RequestLog
from service.api.origins import KnownHosts, OwnOrigin, SafeHeaders
from service.api.parts import FormParts, MaxParts
from service.api.problems import add_problem_handlers, document_problems, responses
from service.api.proxies import Forwarded, Prefixed
from service.api.rates import RateLimit, address_of, document_rates, key_id_of
from service.api.readiness import Readiness
from service.api.request_metrics import RequestMetrics
from service.api.room import RoomForBody
from service.api.routes import (
    audit as audit_routes,
)
from service.api.routes import (
    batch,
    enrolment,
    erasures,
    gallery,
    health,
    identities,
    jobs,
    metrics,
    models,
    overview,
    page,
    retention,
    search,
    session,
    verify,
)
from service.api.routes.dependencies import refuse_unknown_fields, require_open
from service.api.scraping import Scraper
from service.api.slashes import EncodedSlashes
from service.api.telemetry import NONE, find_spans
from service.audit.log import Audit
from service.errors import ServiceError
from service.gallery import imports
from service.gallery.import_worker import run_import
from service.jobs.workers import Worker
from service.serving.generation import Generation
from service.serving.serving import Serving
from service.settings import MEBIBYTE, Settings
from service.store.clock import Clock
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.versions import activation, activation_queue, evaluation

DESCRIPTION: dict[str, Any] = {
    "title": "reid-gallery",
    "version": API_VERSION,
    "summary": "Person re-identification gallery: enrol crops of people, and find out who is on a new crop.",
}
"""Arguments of FastAPI that determine the OpenAPI document."""


MAX_PARTS = {
    "/gallery": MaxParts(enrolment.MAX_IMAGES, 16),
    "/search": MaxParts(search.MAX_IMAGES, 1000),
    "/search/batch": MaxParts(batch.MAX_IMAGES, 1),
    "/verify": MaxParts(2 * search.MAX_IMAGES, 16),
    "/models": MaxParts(1, 16),
}
"""The most parts of the forms. The filters of a search repeat; the other forms have at most 7 fields."""


def _ignore(_: object) -> None:
    """Do nothing."""


def create_app(
    settings: Settings,
    on_ready: Callable[[Generation], None] = _ignore,
    on_failed: Callable[[str], None] = _ignore,
    clock: Clock | None = None,
    *,
    loads_first: bool = False,
    limits: Mapping[str, Limit] = LIMITS,
) -> FastAPI:
    """Build the service.

    Args:
        settings: the settings of this process.
        on_ready: called in the event loop once the service can search.
        on_failed: called in the event loop with the reason, if the service cannot start.
        clock: the clocks of this process; by default those of the machine.
        loads_first: whether the process begins to listen only when the service can search. Of several
            processes on one port, each listens when it is ready, so that no request meets one that is not.
        limits: how many requests of each class this process takes.
    """
    engine = make_engine(settings.database_url)
    store = Store(settings, make_sessions(engine), clock)
    serving = Serving(store)
    readiness = Readiness(store)
    scraper = Scraper(store, serving.current)
    spans = find_spans()
    claims = Claims(store)
    callers = Callers(store)
    audit = Audit(store)
    background = Background(serving, claims, callers, audit, _workers(serving))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(background.load(engine, on_ready, on_failed))
        if loads_first:
            await loading
        yield
        store.stopping.set()
        await loading
        await asyncio.to_thread(background.stop)
        await asyncio.to_thread(serving.close)
        await asyncio.to_thread(readiness.close)
        await asyncio.to_thread(scraper.close)
        if spans is not None:
            await asyncio.to_thread(spans.close)
        engine.dispose()

    telemetry = NONE if spans is None else spans.config
    app = FastAPIOffline(redoc_url=None, lifespan=lifespan, telemetry=telemetry, **DESCRIPTION)
    app.state.serving = serving
    app.state.readiness = readiness
    app.state.scraper = scraper
    app.state.expiry = background.expiry
    app.state.audit = audit
    app.state.callers = callers
    app.state.cursors = Cursors(settings)
    app.router.routes.extend(_routes())
    app.openapi = _document  # type: ignore[method-assign]  # FastAPI documents this assignment
    app.router.routes.insert(0, Route("/openapi.json", _send_document))  # before FastAPI's own
    app.mount("/web", page.files)
    add_problem_handlers(app)
    _add_middleware(app, serving, claims, callers, audit, make_turns(limits))
    if spans is not None:
        spans.add_details(app)
    app.add_middleware(RequestId)
    if settings.trusted_proxies:
        app.add_middleware(Forwarded, trusted=settings.trusted_proxies)
    return app


def _workers(serving: Serving) -> tuple[Worker, ...]:
    store = serving.store
    return (
        Worker(store, activation_queue.KIND, partial(activation.run_activation, serving)),
        Worker(store, evaluation.KIND, partial(evaluation.run_evaluation, store, serving.priority)),
        Worker(store, imports.KIND, partial(run_import, serving), transient=(ServiceError,)),
    )


def _add_middleware(
    app: FastAPI,
    serving: Serving,
    claims: Claims,
    callers: Callers,
    audit: Audit,
    turns: Mapping[str, Turns],
) -> None:
    """Add the middleware within `RequestId`; the one that is added last is the outermost."""
    if serving.store.settings.trusted_proxies:
        app.add_middleware(Prefixed)
    app.add_middleware(Idempotency, claims=claims, require_ready=serving.current)
    settings = serving.store.settings
    app.add_middleware(FormParts, max_parts=MAX_PARTS)
    app.add_middleware(RoomForBody, room=serving.store.room, folders=_folders(settings))
    app.add_middleware(BodyLimit, max_body_bytes=_max_body_bytes(settings))
    app.add_middleware(FormKind)
    app.add_middleware(Admission, turns=turns)
    app.add_middleware(Audited, audit=audit, clock=serving.store.clock)
    if settings.rate_per_key is not None:
        app.add_middleware(RateLimit, name="key", per_minute=settings.rate_per_key, sender_of=key_id_of)
    app.add_middleware(Access, callers=callers, audit=audit, require_open=partial(require_open, serving))
    app.add_middleware(FullQueues, turns=turns)
    if settings.rate_per_address is not None:
        app.add_middleware(
            RateLimit, name="address", per_minute=settings.rate_per_address, sender_of=address_of
        )
    app.add_middleware(EncodedSlashes)
    app.add_middleware(Ranges)
    app.add_middleware(HeadRequests)
    _add_browser_rules(app, settings)
    app.add_middleware(RequestLog)
    app.add_middleware(RequestMetrics)


def _add_browser_rules(app: FastAPI, settings: Settings) -> None:
    """Add the middleware that says for which pages a browser may use the API."""
    app.add_middleware(OwnOrigin, cors_origins=settings.cors_origins)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    app.add_middleware(KnownHosts, settings=settings)
    app.add_middleware(SafeHeaders)


@cache
def _routes() -> list[BaseRoute]:
    """Return every endpoint. All but the probes, /metrics and the page refuse unknown fields.

    The endpoints find what they need in the state of their app. So the apps of a process, as in tests, share
    them: FastAPI takes about 0.1 s to make them ready.
    """
    router = APIRouter(generate_unique_id_function=lambda route: route.name)
    strict = [Depends(refuse_unknown_fields)]
    people = (gallery, search, batch, verify, identities, overview, erasures, retention)
    for resource in (enrolment, *people, models, jobs, session, audit_routes):
        router.include_router(resource.router, dependencies=strict, responses=responses(422))
    for resource in (health, metrics, page):
        router.include_router(resource.router)
    return router.routes


@cache
def _document() -> dict[str, Any]:
    """Return the OpenAPI document, which is the same for all settings, so a process builds it only once."""
    app = FastAPI(**DESCRIPTION)
    app.router.routes.extend(_routes())
    document_problems(app)
    document_access(app.openapi())
    document_rates(app.openapi())
    batch.document_json(app.openapi())
    document_summaries(app.openapi())
    document_examples(app.openapi())
    return app.openapi()


@cache
def _render_document() -> bytes:
    return bytes(JSONResponse(_document()).body)


async def _send_document(request: Request) -> Response:
    """Answer with the OpenAPI document as FastAPI does, which writes all of it anew for each request.

    Everybody may ask for it, and the event loop does nothing else in the meantime.
    """
    content, prefix = _render_document(), request.scope.get("root_path", "")
    if prefix:
        servers = json.dumps({"servers": [{"url": prefix}]}, separators=(",", ":")).encode()
        content = content.removesuffix(b"}") + b"," + servers.removeprefix(b"{")
    return Response(content, media_type="application/json")


def _folders(settings: Settings) -> dict[str, Path]:
    """Return the folder that keeps what is in the bodies of POST requests, for each path that adds to it."""
    return {"/gallery": settings.crops_dir, "/models": settings.models_dir}


def _max_body_bytes(settings: Settings) -> dict[str, int]:
    """Return the size limit of a request body for each path, in bytes: its files, and room for other fields.

    The key "" holds the limit of all other paths.
    """
    return {
        "": MEBIBYTE,
        "/gallery": max(enrolment.MAX_IMAGES * settings.max_upload_bytes, settings.max_archive_bytes)
        + 2 * MEBIBYTE,
        "/search": search.MAX_IMAGES * settings.max_upload_bytes + MEBIBYTE,
        "/search/batch": batch.MAX_IMAGES * settings.max_upload_bytes + 2 * MEBIBYTE,
        "/verify": 2 * search.MAX_IMAGES * settings.max_upload_bytes + MEBIBYTE,
        "/models": settings.max_checkpoint_bytes + MEBIBYTE,
    }
