"""Spans for a collector of OpenTelemetry: sent where the operator says, and nowhere else."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from live_server import crop, enroll, images, serve
from service.settings import Settings

HINT = "pip install 'reid-gallery[telemetry]'"
pytest.importorskip("opentelemetry.sdk", reason=HINT)
service_pb2 = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=HINT)

Attributes = dict[str, str | int]
Span = tuple[str, Attributes]


class Collector(ThreadingHTTPServer):
    """A collector on a port of this machine; `bodies` has what it was sent, by path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.bodies: list[tuple[str, bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> list[Span]:
        """Return the name and the attributes of each span, those of its resource included."""
        found: list[Span] = []
        for path, body in self.bodies:
            assert path == "/v1/traces"
            for sent in service_pb2.ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = attributes(sent.resource.attributes)
                for scope in sent.scope_spans:
                    found += [(span.name, resource | attributes(span.attributes)) for span in scope.spans]
        return found


class Receiver(BaseHTTPRequestHandler):
    """Takes what an exporter posts."""

    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


def attributes(pairs: "Iterator[object]") -> Attributes:
    return {one.key: one.value.string_value or one.value.int_value for one in pairs}  # type: ignore[attr-defined]


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A running collector."""
    with Collector() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(settings: Settings) -> httpx.Response:
    """Serve, send some requests about Anna, and end, which sends the last spans."""
    with serve(settings) as client:
        enroll(client, crop(1), identity_id="anna")
        client.get("/identities/anna")
        client.get("/gallery", params={"identity_id": "anna"})
        client.get("/nowhere")
        return client.post("/search", files=images(crop(1)), headers={"X-Request-ID": "mine"})


def test_a_span_has_its_route_and_request_id_and_no_name_of_a_person(
    settings: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    assert ask(settings).status_code == 200
    spans = collector.spans()
    by_name = dict(spans)
    assert {"POST /gallery", "GET /identities/{identity_id}", "POST /search", "GET"} <= by_name.keys()
    found = by_name["POST /search"]
    assert found["reid.request_id"] == "mine"
    assert found["http.route"] == found["url.path"] == "/search"
    assert found["http.response.status_code"] == 200
    assert found["service.name"] == "reid-gallery"
    assert not [span for span in spans if "anna" in str(span)]
    assert not [span for span in spans if "/readyz" in str(span)]


def test_nothing_is_sent_where_no_collector_is_named(
    settings: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{collector.url}/v1/metrics")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", f"{collector.url}/v1/logs")
    assert ask(settings).status_code == 200
    assert collector.bodies == []
