"""The metrics of a process, which GET /metrics shows: numbers for Prometheus, without ids and names.

Each room counts here what it does. The labels have few values: the template of a route and never its path, a
stage, a kind of job. So the number of series does not grow with the gallery or with the requests.

Several workers count into files of one folder, and each worker answers for all of them. prometheus_client
takes to the files if `FOLDER_VARIABLE` is set before it is imported: service/cli/worker_metrics.py does that.
The registry is our own, because the one of the library is open to every other package of the process.
"""

import os
from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

REQUEST_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10)
STAGE_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)
BATCH_BUCKETS = (1, 2, 4, 8, 16)

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series, and nothing reads them
_registry = CollectorRegistry()

REQUESTS = Counter(
    "reid_http_requests_total",
    "Requests by method, template of the route, and status; a client that left before its answer is 'none'.",
    ["method", "route", "status"],
    registry=_registry,
)
REQUEST_S = Histogram(
    "reid_http_request_seconds",
    "Time from the head of a request to the end of its answer.",
    ["method", "route"],
    buckets=REQUEST_BUCKETS_S,
    registry=_registry,
)
OVERLOADED = Counter(
    "reid_overloaded_total",
    "Requests of each class that were refused because too many waited, or waited too long.",
    ["class"],
    registry=_registry,
)

_stage_s = Histogram(
    "reid_stage_seconds",
    "Time in a stage of the work. queue: one wait for a turn, for memory, or for another enrolment. decode: "
    "one crop. embed: one batch. search: one search of the index. database: one read of a search, or one "
    "transaction that changes the gallery.",
    ["stage"],
    buckets=STAGE_BUCKETS_S,
    registry=_registry,
)
QUEUE_S = _stage_s.labels("queue")
DECODE_S = _stage_s.labels("decode")
EMBED_S = _stage_s.labels("embed")
SEARCH_S = _stage_s.labels("search")
DATABASE_S = _stage_s.labels("database")

BATCH_CROPS = Histogram(
    "reid_batch_crops",
    "Crops that were embedded together.",
    buckets=BATCH_BUCKETS,
    registry=_registry,
)
BACKFILLED = Counter(
    "reid_backfilled_items_total",
    "Stored items that were embedded for another model version.",
    registry=_registry,
)
JOBS_ENDED = Counter(
    "reid_jobs_ended_total", "Jobs that have ended, by kind and state.", ["kind", "state"], registry=_registry
)

AUDIT_QUEUED = Gauge(
    "reid_audit_queued_rows",
    "Rows of the audit that wait for the next batch; many if the database does not answer.",
    registry=_registry,
    multiprocess_mode="livesum",
)
CONNECTIONS = Gauge(
    "reid_connections", "Open connections of clients.", registry=_registry, multiprocess_mode="livesum"
)
_closed = Counter(
    "reid_connections_closed_total",
    "Connections that the service has closed. evicted: one that waited for its client, for a new one. "
    "slow_head, slow_body, large_head, in_line: its requests broke a limit. slow_answer: it was not taken.",
    ["reason"],
    registry=_registry,
)
EVICTED, SLOW_HEAD, SLOW_BODY, LARGE_HEAD, SLOW_ANSWER, IN_LINE = map(
    _closed.labels, ("evicted", "slow_head", "slow_body", "large_head", "slow_answer", "in_line")
)

_replica_change = Gauge(
    "reid_replica_newest_change",
    "Number of the newest change that the active index has seen; of the worker that is furthest behind.",
    ["index"],  # without a label the gauge would be 0 until the index is loaded
    registry=_registry,
    multiprocess_mode="livemin",
)
SCRAPE_ERRORS = Counter(
    "reid_scrape_errors_total",
    "Scrapes that lack the numbers of a source, because it could not be read in time.",
    ["source"],
    registry=_registry,
)


def note_replica(newest_change: int) -> None:
    """Note the number of the newest change that the active index of this process has seen."""
    _replica_change.labels("active").set(newest_change)


def forget_worker(pid: int | None) -> None:
    """Drop the gauges of a worker that has ended, in its parent; what the worker has counted stays."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]


class _Asked(Collector):
    """Metrics that are asked at a scrape. A gauge cannot hold them: with workers it counts into the files."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        """Return the metrics."""
        return self._families


def exposition(asked: Sequence[Metric]) -> bytes:
    """Return what this process or all workers have counted, and what was asked, as Prometheus reads it."""
    registry = CollectorRegistry()
    registry.register(_Asked(asked))
    counted = _registry
    if FOLDER_VARIABLE in os.environ:
        counted = CollectorRegistry()
        MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
    return generate_latest(counted) + generate_latest(registry)
