"""Spans of the requests, for a collector of OpenTelemetry that the operator has named.

FastAPI makes the spans, and the exporter of OpenTelemetry reads its own variables, OTEL_EXPORTER_OTLP_*. This
module is imported only if one of them names a collector; see `service/api/telemetry.py`.
"""

import os
from threading import Thread

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.middleware import QUIET_PATHS, path_to_log

FLUSH_S = 5.0
"""How long the end of the service waits for a collector that does not take the last spans, in seconds."""


class Spans:
    """Makes the spans of one app. The provider is its own, so other apps of the process are left alone.

    Attributes:
        config: what FastAPI takes. No metrics, which /metrics has, and no logs, whose texts may hold names.
    """

    def __init__(self) -> None:
        name = os.environ.get("OTEL_SERVICE_NAME", "reid-gallery")
        self._exporter = OTLPSpanExporter()
        self._provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self.config = TelemetryConfig(
            tracer_provider=self._provider,
            metrics=False,
            logs=False,
            auto_configure=False,
            exclude=lambda scope: QUIET_PATHS.fullmatch(scope["path"]) is not None,
        )

    def add_details(self, app: FastAPI) -> None:
        """Add the middleware that completes the spans; `RequestId` must be added after it."""
        app.add_middleware(SpanDetails)

    def close(self) -> None:
        """Send the last spans, or give them up after `FLUSH_S`."""
        last = Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(FLUSH_S)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class SpanDetails:
    """Adds the request id to the span, and takes out of it what may be a name: query and identity."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            span = trace.get_current_span()
            span.set_attribute("reid.request_id", scope["state"]["request_id"])
            span.set_attribute("url.path", path_to_log(scope))
            if scope["query_string"]:
                span.set_attribute("url.query", "REDACTED")
        await self._app(scope, receive, send)
