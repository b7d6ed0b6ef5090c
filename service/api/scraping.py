"""What GET /metrics answers: what the processes have counted, and what is asked at each scrape.

The database and the disks are asked in threads of their own, and whoever does not answer in time is left out.
So a disk or a table that cannot be read holds no scrape back.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import structlog
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from service import metrics
from service.api.about import program_version
from service.api.readiness import WITHIN_S
from service.errors import NotReady
from service.serving.generation import Generation
from service.settings import Settings
from service.store.database import sqlite_file
from service.store.probe import SILENCE_S
from service.store.store import Store
from service.store.timeouts import answer_within
from service.upkeep.facts import read_facts

logger = structlog.get_logger(__name__)

LATE = f"no answer for {WITHIN_S:g} s"

Answer = asyncio.Future[list[Metric]]


class Scraper:
    """Makes the answer of /metrics. Scrapes at the same time share one answer, so many cost no more than one.

    A source that has not answered the last scrape is not asked again until it has.

    Args:
        store: the gallery.
        current: returns the generation in service, or raises NotReady.
    """

    def __init__(self, store: Store, current: Callable[[], Generation]) -> None:
        self._current = current
        self._sources: dict[str, Callable[[], list[Metric]]] = {
            "database": partial(_of_database, store),
            "disk": partial(_of_disks, store.settings),
        }
        self._threads = ThreadPoolExecutor(len(self._sources), thread_name_prefix="scrape")
        for name in self._sources:
            metrics.SCRAPE_ERRORS.labels(name)
        self._questions: dict[str, Answer] = {}
        self._reasons: dict[str, str] = {}
        self._scrape: asyncio.Task[bytes] | None = None

    async def scrape(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        if self._scrape is None or self._scrape.done():
            self._scrape = asyncio.create_task(self._collect())
        return await asyncio.shield(self._scrape)  # a client that leaves ends nobody else's scrape

    def close(self) -> None:
        """Wait for the questions in progress."""
        self._threads.shutdown()

    async def _collect(self) -> bytes:
        loop = asyncio.get_running_loop()
        for name, source in self._sources.items():
            if name not in self._questions or self._questions[name].done():
                self._questions[name] = loop.run_in_executor(self._threads, source)
        await asyncio.wait(self._questions.values(), timeout=WITHIN_S)
        families = [*_of_memory(self._current)]
        for name, question in self._questions.items():
            families += self._answer(name, question)
        return await asyncio.to_thread(metrics.exposition, families)

    def _answer(self, name: str, question: Answer) -> list[Metric]:
        """Return the answer of a source, or nothing if it has none; a reason is logged once."""
        error = question.exception() if question.done() else None
        reason = LATE if not question.done() else "" if error is None else f"{type(error).__name__}: {error}"
        if reason and reason != self._reasons.get(name):
            logger.warning("metrics are incomplete", source=name, reason=reason)
        self._reasons[name] = reason
        if reason:
            metrics.SCRAPE_ERRORS.labels(name).inc()
            return []
        return question.result()


def _of_memory(current: Callable[[], Generation]) -> Iterator[Metric]:
    yield InfoMetricFamily("reid_build", "The program.", {"version": program_version()})
    try:
        generation = current()
    except NotReady:
        return
    yield InfoMetricFamily(
        "reid_generation",
        "What searches use: the active network, its runtime, and the kind of index.",
        {
            "model_version": generation.version,
            "runtime": generation.embedder.runtime,
            "index_kind": generation.index.kind_in_use,
        },
    )
    yield GaugeMetricFamily("reid_items", "Items in the index.", len(generation.index))


def _of_database(store: Store) -> list[Metric]:
    if not store.is_open:
        return []
    with answer_within(SILENCE_S), store.read() as session:
        facts = read_facts(session)
    jobs = GaugeMetricFamily("reid_jobs", "Jobs that are kept, by kind and state.", labels=["kind", "state"])
    for labels, num in sorted(facts.num_jobs.items()):
        jobs.add_metric(labels, num)
    return [
        GaugeMetricFamily("reid_newest_change", "Number of the newest change.", facts.newest_change),
        GaugeMetricFamily("reid_identities", "Identities in the database.", facts.num_identities),
        jobs,
        GaugeMetricFamily(
            "reid_backfill_items_left", "Items that activations have still to embed.", facts.num_backfilling
        ),
        GaugeMetricFamily(
            "reid_expiry_held", "Whether an expiry waits for a person, 0 or 1.", int(facts.is_expiry_held)
        ),
    ]


def _of_disks(settings: Settings) -> list[Metric]:
    free = GaugeMetricFamily("reid_disk_free_bytes", "Room for this program on a disk.", labels=["folder"])
    size = GaugeMetricFamily("reid_disk_size_bytes", "Size of a disk.", labels=["folder"])
    for name, folder in _folders(settings):
        usage = shutil.disk_usage(folder)
        free.add_metric([name], usage.free)
        size.add_metric([name], usage.total)
    return [free, size]


def _folders(settings: Settings) -> Sequence[tuple[str, Path]]:
    """Return the folders that may fill, by a word; what lies in the data folder is on its disk."""
    file = sqlite_file(settings.database_url)
    folders = {"database": file and file.parent, "models": settings.models_dir}
    apart = [
        (name, folder)
        for name, folder in folders.items()
        if folder is not None and not folder.absolute().is_relative_to(settings.data_dir.absolute())
    ]
    return [("data", settings.data_dir), *apart, ("temporary", Path(tempfile.gettempdir()))]
