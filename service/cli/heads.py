"""The HTTP protocol of uvicorn, with a limit to the head of a request and to its trailer.

uvicorn limits only the URL. A header or a trailer of 100 MB held all other requests back for 4 s and more,
because each piece is added to the pieces before it. 24 MB of short headers held them back for 1.5 s, and took
500 MB.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 1024 * 1024
"""Counted in whole reads of the socket. The read in which a head begins may also hold a body, but a read has
at most 256 KiB, and ordinary heads have a few KiB."""

TOO_LONG = f"the headers of the request have more than {MAX_HEAD_BYTES:,} bytes"
REFUSAL = (
    "HTTP/1.1 431 Request Header Fields Too Large\r\n"
    "content-type: text/plain; charset=utf-8\r\n"
    f"content-length: {len(TOO_LONG)}\r\n"
    "connection: close\r\n"
    "\r\n"
    f"{TOO_LONG}"
).encode()


class BoundedHeads(HttpToolsProtocol):
    """Answers 431 to a request whose head or trailer is too long, and closes the connection."""

    _num_bytes = 0

    def on_message_begin(self) -> None:
        """Begin to count the bytes of a head."""
        super().on_message_begin()
        self._num_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Take a part of a body, and count the bytes after it, which may be those of a trailer."""
        super().on_body(body)
        self._num_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        super().data_received(data)
        self._num_bytes += len(data)
        if self._num_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.logger.warning(TOO_LONG)
            self.transport.write(REFUSAL)
            self.transport.close()
