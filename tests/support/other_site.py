"""A web site of somebody else, whose pages try to act in the browser of an operator."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from playwright.sync_api import Page

FORM_POST = """url => new Promise(resolve => {
    const form = document.createElement("form");
    Object.assign(form, {method: "post", action: url, enctype: "multipart/form-data", target: "sink"});
    const sink = document.createElement("iframe");
    sink.name = "sink";
    document.body.append(sink, form);
    sink.onload = resolve;
    form.submit();
})"""


class OtherSite(BaseHTTPRequestHandler):
    """A site with one page, which the tests fill."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title><body></body>")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def serve_other_site() -> Iterator[int]:
    """Serve the site, and return its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), OtherSite)
    threading.Thread(target=server.serve_forever).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def in_page(page: Page, act: Callable[[], object]) -> list[int]:
    """Return the statuses of the answers to what a page does."""
    statuses: list[int] = []
    page.on("response", lambda answer: statuses.append(answer.status))
    act()
    return statuses
