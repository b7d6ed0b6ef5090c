"""Log lines on stderr, for commands that run the service's code in their own process.

A line has its time in UTC, its level, an event and values. It is written for people, or as a JSON object.

Several workers share one stderr. Each event is therefore one write of whole lines, which the kernel does not
mix with the writes of the other workers.
"""

import logging
import os
import sys
from contextlib import suppress
from threading import Lock
from typing import TextIO

import structlog

from service.cli.terminal import replace_unprintable

PROCESSORS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper("iso", utc=True),
]

AS_JSON: list[structlog.typing.Processor] = [
    structlog.processors.format_exc_info,
    structlog.processors.JSONRenderer(ensure_ascii=False),
]


class WholeLines:
    """Writes each text by a single call of the kernel, past the buffers of the stream.

    Args:
        stream: such as `sys.stderr`; a stream without a file descriptor writes for itself.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = Lock()

    def write(self, text: str) -> None:
        """Write a text; characters that the encoding of the stream does not have are replaced.

        A text that cannot be written is lost, as when the disk is full or nobody reads the pipe any more: no
        request may fail because of its log line.
        """
        with self._lock, suppress(OSError, ValueError):
            try:
                descriptor = self._stream.fileno()
            except (OSError, ValueError, AttributeError):
                self._stream.write(text)
                self._stream.flush()
                return
            self._stream.flush()
            data = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
            while data:
                data = data[os.write(descriptor, data) :]

    def flush(self) -> None:
        """Do nothing, because nothing is buffered."""


class EventLogger:
    """Writes the events of structlog, whatever their level."""

    def __init__(self, lines: WholeLines) -> None:
        self._lines = lines

    def msg(self, message: str) -> None:
        """Write one event."""
        self._lines.write(f"{message}\n")

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


def log_to_terminal(form: str = "console", level: str = "info") -> None:
    """Write the service's log events and the warnings of libraries to stderr, in one form.

    Args:
        form: `console` or `json`, as `log_format` of the settings.
        level: name of the least severe level that is written.
    """
    replace_unprintable()
    lines = WholeLines(sys.stderr)
    rendering = AS_JSON if form == "json" else [_console_renderer()]
    structlog.configure(
        processors=[*PROCESSORS, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: EventLogger(lines),
    )
    handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=PROCESSORS,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def _console_renderer() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
