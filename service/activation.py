"""Put another model version in service while the old one answers.

The gallery is embedded again from its stored crops, page by page, each page its own transaction; "items
without an embedding of this version" is the whole queue, so what was done before a crash is not done again.
Only the last stragglers and the cut-over keep others from changing the gallery. Whatever fails before that
changes nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Lock, Thread

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from model.embedder import Embedder
from service.changes import Changing, newest_change
from service.decisions import find_decisions
from service.errors import ActivationRunning, CropMissing, ModelNotFound, ServiceError
from service.images import UNLIMITED, decode
from service.jobs import RUNNING, Cancelled, advance, finish, is_dead, keep_alive, require
from service.replica import Replica
from service.serving import Generation, Serving, embed_in_batches, load_registered, to_half
from service.tables import Embedding, Item, Job, Model, new_id, now

logger = structlog.get_logger(__name__)

ITEMS_PER_PAGE = 64
KIND = "activation"
INTERRUPTED = "the server was stopped; activate again to go on where it was"

Progress = Callable[[int, int], None]
Page = Sequence[tuple[int, str]]


class _Stopped(ServiceError):
    """The server is going down."""


class Activations:
    """Runs activations in a background thread, one at a time; their state is in the jobs table."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._lock = Lock()
        self._thread: Thread | None = None
        self._job_id = ""

    def start(self, version: str) -> Job:
        """Begin to activate a registered version and return the job to watch.

        Raises:
            ModelNotFound: there is no such version.
            ActivationRunning: another activation is under way.
        """
        with self._lock:
            job = self._queue(version)
            if job.state == "queued":
                self._job_id = job.id
                self._thread = Thread(target=self._run, args=(job.id, version), name=f"activate-{version}")
                self._thread.start()
            return job

    def wait(self) -> None:
        """Wait until no activation is under way; after `serving.stopping` is set this is soon."""
        if self._thread is not None:
            self._thread.join()

    def keep_alive(self) -> None:
        """Say that the job of this process is alive, if there is one; every few seconds."""
        if self._thread is not None and self._thread.is_alive():
            keep_alive(self._serving, [self._job_id])

    def _queue(self, version: str) -> Job:
        fail_dead_activations(self._serving)
        with self._serving.changing() as change:
            session = change.session
            running = session.scalar(select(Job).where(Job.kind == KIND, Job.state.in_(RUNNING)))
            if running is not None:
                raise ActivationRunning(running.id)
            model = session.get(Model, version)
            if model is None:
                raise ModelNotFound(version)
            is_active = model.state == "active"
            job = Job(
                id=new_id(),
                kind=KIND,
                model_version=version,
                state="succeeded" if is_active else "queued",
                done=0,
                total=0,
                created_at=now(),
                alive_at=now(),
                finished_at=now() if is_active else None,
            )
            session.add(job)
            return job

    def _run(self, job_id: str, version: str) -> None:
        log = logger.bind(job_id=job_id, model_version=version)
        log.info("activation started")
        try:
            activate(
                self._serving,
                version,
                lambda done, total: self._update(job_id, done, total),
                lambda session: require(session, job_id),
            )
        except Cancelled:
            log.info("activation cancelled")
        except _Stopped:
            self._finish(job_id, "cancelled", INTERRUPTED)
        except ServiceError as error:
            log.warning("activation failed", reason=str(error))
            self._finish(job_id, "failed", str(error))
        except Exception as error:
            log.exception("activation failed")
            self._finish(job_id, "failed", f"{type(error).__name__}: {error}")
        else:
            log.info("activation succeeded")
            self._finish(job_id, "succeeded", None)

    def _update(self, job_id: str, done: int, total: int) -> None:
        with self._serving.sessions.write.begin() as session:
            advance(session, job_id, done, total)

    def _finish(self, job_id: str, state: str, error: str | None) -> None:
        with self._serving.sessions.write.begin() as session:
            finish(session, job_id, state, error)


def fail_dead_activations(serving: Serving) -> None:
    """Say of activations that nobody keeps alive any more that they have ended."""
    dead = (Job.kind == KIND) & is_dead()
    with serving.sessions.read() as session:
        if session.scalar(select(Job.id).where(dead).limit(1)) is None:
            return
    with serving.sessions.write.begin() as session:
        session.execute(update(Job).where(dead).values(state="failed", error=INTERRUPTED, finished_at=now()))


def activate(
    serving: Serving, version: str, progress: Progress, is_wanted: Callable[[Session], None]
) -> None:
    """Embed the gallery with a registered version and switch to it; `progress` is told (done, total).

    `is_wanted` raises Cancelled if it is not any more; it is asked in the transaction that switches.

    Raises:
        Cancelled: as `progress` or `is_wanted` have it.
        ServiceError: if the network, a crop or the count at the end is not as it must be; the version that
            was serving goes on.
    """
    with serving.sessions.read() as session:
        sequence = newest_change(session)  # what comes after may be missed by the backfill
    embedder = load_registered(serving, version)
    _backfill(serving, embedder, progress)
    with serving.sessions.read() as session:
        kind = serving.settings.index
        replica = Replica.load(session, version, embedder.embedding_size, kind, sequence)
    with serving.swapping():
        with serving.changing() as change:
            while page := _next_page(change.session, version, 0):
                _keep(change.session, version, _embed_page(serving, embedder, page))
            replica.catch_up(change.session, change.newest)
            _check_complete(change.session, replica)
            is_wanted(change.session)
            mark_active(change, version)
            decisions = find_decisions(change.session, version, serving.settings.target_fmr)
        retired = serving.current()
        serving.replace(Generation(embedder, replica, decisions))
    retired.index.close()


def mark_active(change: Changing, version: str) -> None:
    """Make this version, and no other, the active one."""
    session = change.session
    session.execute(update(Model).where(Model.state == "active").values(state="retired"))
    session.execute(update(Model).where(Model.version == version).values(state="active", activated_at=now()))
    change.note("activated")


def _backfill(serving: Serving, embedder: Embedder, progress: Progress) -> None:
    """Embed every item that has no embedding of this version yet."""
    with serving.sessions.read() as session:
        total = session.scalar(select(func.count()).select_from(Item)) or 0
        missing = session.scalar(
            select(func.count()).select_from(Item).where(~_is_embedded(embedder.version))
        )
    done = total - (missing or 0)
    progress(done, total)
    last = 0
    while page := _next_committed_page(serving, embedder.version, last):
        if serving.stopping.is_set():
            raise _Stopped(INTERRUPTED)
        embeddings = _embed_page(serving, embedder, page)
        with serving.changing() as change:
            _keep(change.session, embedder.version, embeddings)
        last = page[-1][0]
        done += len(page)
        progress(done, max(done, total))


def _next_committed_page(serving: Serving, version: str, last: int) -> Page:
    with serving.sessions.read() as session:
        return _next_page(session, version, last)


def _next_page(session: Session, version: str, last: int) -> Page:
    """Return the next items to embed, as (slot, sha256)."""
    statement = (
        select(Item.slot, Item.sha256)
        .where(Item.slot > last, ~_is_embedded(version))
        .order_by(Item.slot)
        .limit(ITEMS_PER_PAGE)
    )
    return [(slot, sha256) for slot, sha256 in session.execute(statement)]


def _embed_page(serving: Serving, embedder: Embedder, page: Page) -> dict[int, NDArray[np.float16]]:
    """Return the embeddings of the stored crops by slot; items deleted meanwhile are left out."""
    slots: list[int] = []
    embeddings_ND = to_half(embed_in_batches(embedder, _stored_images(serving, page, slots)))
    return dict(zip(slots, embeddings_ND, strict=True))


def _keep(session: Session, version: str, embeddings: Mapping[int, NDArray[np.float16]]) -> None:
    """Store embeddings of the items that are still there; alone among those who change the gallery."""
    wanted = Item.slot.in_(embeddings), ~_is_embedded(version)  # an evaluation may have made some meanwhile
    alive = session.scalars(select(Item.slot).where(*wanted))
    session.add_all(
        Embedding(slot=slot, model_version=version, values=embeddings[slot].tobytes()) for slot in alive
    )
    session.flush()


def _stored_images(serving: Serving, page: Page, slots: list[int]) -> Iterator[Image.Image]:
    """Decode the stored crops of a page, noting whose they are; items deleted meanwhile are left out."""
    for slot, sha256 in page:
        try:
            image, _ = decode(serving.crops.get(sha256), UNLIMITED)
        except CropMissing as error:
            with serving.sessions.read() as session:
                item_id = session.scalar(select(Item.id).where(Item.slot == slot))
            if item_id is not None:
                raise CropMissing(f"item {item_id}: {error}") from error
            continue
        slots.append(slot)
        yield image


def _check_complete(session: Session, replica: Replica) -> None:
    """See to it that an index holds every item and no other.

    Raises:
        ServiceError: if it does not.
    """
    alive = set(session.scalars(select(Item.slot)))
    if set(replica.index.slots().tolist()) != alive:
        raise ServiceError(
            f"{len(alive)} items have {len(replica.index)} embeddings of {replica.version}: not switched"
        )


def _is_embedded(version: str) -> ColumnElement[bool]:
    return (
        select(Embedding.slot).where(Embedding.slot == Item.slot, Embedding.model_version == version).exists()
    )
