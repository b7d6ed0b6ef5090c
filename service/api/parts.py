"""Counts the files and fields of a form as they arrive, so that a form with too many is not kept first.

FastAPI and Starlette count too, and FastAPI can be told a number for each route. But the body of a request
with an Idempotency-Key is kept whole before FastAPI sees the form.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Fault, InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_SHOWN = 64
"""Characters of the name of a field that an error repeats."""


class MaxParts(NamedTuple):
    """How many parts a form may have.

    Attributes:
        files: the most files.
        fields: the most fields that are no files. Each may have 1 MiB, and is held in memory.
    """

    files: int
    fields: int


class FormParts:
    """Answers 422 to a form as soon as a part begins that is one too many, and reads no further.

    Args:
        app: the wrapped app.
        max_parts: how many parts the form of a path may have; the forms of other paths are not counted.
    """

    def __init__(self, app: ASGIApp, max_parts: Mapping[str, MaxParts]) -> None:
        self._app = app
        self._max_parts = max_parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        limits = self._max_parts.get(scope["path"]) if scope["type"] == "http" else None
        if limits is None:
            await self._app(scope, receive, send)
            return
        parts, has_too_many = _Parts(Headers(scope=scope).get("content-type", ""), limits), False

        async def receive_counted() -> Message:
            nonlocal has_too_many
            message = await receive()
            try:
                parts.count(message.get("body", b""))
            except InvalidRequest:
                has_too_many = True
                raise
            return message

        async def send_and_close(message: Message) -> None:
            if has_too_many and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"  # else the server reads the rest
            await send(message)

        await self._app(scope, receive_counted, send_and_close)


class _Parts:
    """The parts of one form so far."""

    def __init__(self, content_type: str, limits: MaxParts) -> None:
        self._limits = limits
        self._num_files = self._num_fields = 0
        self._name = self._value = self._disposition = b""
        self._parser: MultipartParser | None = None
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._add_to_name,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
        }
        kind, options = parse_options_header(content_type)
        if kind == b"multipart/form-data":
            with suppress(KeyError, FormParserError):  # FastAPI says what is wrong with the form
                self._parser = MultipartParser(options[b"boundary"], callbacks)

    def count(self, data: bytes) -> None:
        """Count the parts that begin in a piece of the body.

        Raises:
            InvalidRequest: a part is one too many.
        """
        if self._parser is not None and data:
            try:
                self._parser.write(data)
            except FormParserError:
                self._parser = None

    def _begin(self) -> None:
        self._disposition = b""

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")[:MAX_SHOWN]
        if b"filename" in options:
            self._num_files += 1
        else:
            self._num_fields += 1
        if self._num_files > self._limits.files:
            raise _too_many(name, "files", self._limits.files)
        if self._num_fields > self._limits.fields:
            raise _too_many(name, "fields that are no files", self._limits.fields)


def _too_many(name: str, what: str, limit: int) -> InvalidRequest:
    reason = f"the form has too many {what}; send at most {limit:,} in one request"
    return InvalidRequest(Fault(("body", name), reason, "too_long"))
