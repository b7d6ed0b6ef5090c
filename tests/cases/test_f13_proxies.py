"""F13: no proxy stands between this machine and itself, and a bad proxy is told in a sentence."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from command_line import ROOT
from service.cli.main import app
from service.client import ServiceUnreachable
from service.client.transport import Transport
from training.weights.deployment import DeployError, check_connection, download_active

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
BAD = ["socks5://127.0.0.1:7890", "socks4://127.0.0.1:1", "foo://x", "http://[::1", "http://x:port", "::"]


class Answer(BaseHTTPRequestHandler):
    """Answers every request, and as a proxy nobody but itself."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status":"alive"}')

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        """Log nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A service on the loopback of this machine."""
    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=[("HTTP_PROXY", "http://127.0.0.1:1"), *(("ALL_PROXY", bad) for bad in BAD)])
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment that leads nowhere or cannot be used."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    name, value = request.param
    monkeypatch.setenv(name, value)
    monkeypatch.setenv(name.lower(), value)


@pytest.mark.usefixtures("proxy")
def test_f13_this_machine_is_reached_without_a_proxy(port: int) -> None:
    for host in ("127.0.0.1", "localhost", "127.1", "0.0.0.0"):  # noqa: S104 - asked, not listened to
        transport = Transport(f"http://{host}:{port}")
        transport.ping()
        transport.close()
    check_connection(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("bad", BAD)
def test_f13_a_proxy_that_cannot_be_used_is_one_sentence(
    bad: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ALL_PROXY", bad)
    monkeypatch.setenv("all_proxy", bad)
    with pytest.raises(ServiceUnreachable, match="ALL_PROXY") as told:
        Transport("http://cameras.example:8000")
    assert "\n" not in str(told.value)
    with pytest.raises(DeployError, match="proxy"):
        check_connection("http://cameras.example:8000")
    with pytest.raises(DeployError, match="proxy"):
        download_active("http://cameras.example:8000", tmp_path / "x")


def test_f13_the_program_says_so_and_ends(tmp_path: Path) -> None:
    crop = tmp_path / "x.jpg"
    crop.write_bytes(b"x")
    env = {"ALL_PROXY": "socks5://user:secret@127.0.0.1:7890", "all_proxy": ""}
    command = ["search", str(crop), "--url", "http://cameras.example:8000"]
    done = CliRunner().invoke(app, command, catch_exceptions=False, env=env)
    assert done.exit_code == 1
    assert len(done.output.splitlines()) == 1
    assert "secret" not in done.output


def test_f13_the_health_check_of_the_image_needs_no_proxy(port: int) -> None:
    text = (ROOT / "docker" / "service.Dockerfile").read_text(encoding="utf-8")
    found = re.search(r'CMD \["python", "-c", "(.+)"\]', text)
    assert found
    env = {**os.environ, "REID_PORT": str(port), "http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    subprocess.run([sys.executable, "-c", found[1]], env=env, check=True, timeout=60)
