"""Whether the operator has named a collector of OpenTelemetry. Without one, no code of OpenTelemetry runs."""

import os
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from service.api.spans import Spans

logger = structlog.get_logger(__name__)

COLLECTORS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""The variables of OpenTelemetry that name where spans are sent."""

NONE = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""Turns off what FastAPI would do if another package of the process had set OpenTelemetry up."""


def find_spans() -> "Spans | None":
    """Return what makes the spans, or None if the operator has named no collector."""
    named = [name for name in COLLECTORS if os.environ.get(name)]
    if not named:
        return None
    try:
        from service.api.spans import Spans
    except ImportError as error:
        hint = "no spans are sent: install the extra, as in pip install 'reid-gallery[telemetry]'"
        logger.warning(f"{named[0]} is set, and {hint}", reason=str(error))
        return None
    return Spans()
