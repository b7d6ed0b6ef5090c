"""Q: a URL that leads to no service is told in one sentence, whatever is wrong with it."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import pytest

from command_line import reid


class AnotherServer(BaseHTTPRequestHandler):
    """A web server of another kind: a page at every path, except a redirect below /old."""

    def do_GET(self) -> None:
        is_old = self.path.startswith("/old")
        self.send_response(302 if is_old else 200)
        if is_old:
            self.send_header("Location", "https://login.example/")
        self.end_headers()
        self.wfile.write(b"<html>Welcome</html>")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        """Log nothing."""


@pytest.fixture(scope="module")
def other_url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), AnotherServer)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def what_is_said(url: str) -> str:
    done = reid("models", "list", "--url", url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "url", ["localhost:8000", "127.0.0.1", "ftp://127.0.0.1", "http://", "http://127.0.0.1:1/?page=2"]
)
def test_q_a_url_of_another_form_is_refused_with_the_right_form(url: str) -> None:
    assert "is not the URL of a service; write it as http://host:8000" in what_is_said(url)


@pytest.mark.parametrize(("path", "status"), [("", "200 OK"), ("/old", "302 Found")])
def test_q_another_server_is_not_taken_for_the_service(other_url: str, path: str, status: str) -> None:
    said = what_is_said(other_url + path)
    assert f"what answers at {other_url}{path} is not the service" in said
    assert f"/livez gave {status}; name the URL of the service itself" in said


@pytest.mark.parametrize("path", ["/docs", "/gallery/"])
def test_q_a_page_of_the_service_is_not_its_url(shared_client: httpx.Client, path: str) -> None:
    said = what_is_said(f"{shared_client.base_url}".rstrip("/") + path)
    assert "404 Not Found; name the URL of the service itself" in said


def test_q_https_to_a_server_without_tls_is_told(other_url: str) -> None:
    said = what_is_said(other_url.replace("http", "https"))
    assert "no encrypted connection" in said
    assert "its URL begins with http://" in said


def test_q_spaces_around_a_url_do_not_matter(shared_client: httpx.Client) -> None:
    assert reid("models", "list", "--url", f" {shared_client.base_url} ").returncode == 0
