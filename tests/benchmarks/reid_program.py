"""Start `reid serve` as a user does, and show the end of its log if it fails."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from model.checkpoint import DEFAULT_CHECKPOINT

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
LOG_TAIL_LINES = 40


class RunningServer(NamedTuple):
    """A server that is ready: its URL, and the number of its process."""

    url: str
    pid: int


class BenchmarkError(Exception):
    """The benchmark cannot continue; the message says why."""


def say(sentence: str) -> None:
    """Print progress to stderr."""
    print(sentence, file=sys.stderr, flush=True)


@contextmanager
def running_server(workspace: Path, checkpoint: Path = DEFAULT_CHECKPOINT) -> Iterator[RunningServer]:
    """Run `reid serve` on a free port with the data folder `data`; on failure show the end of its log."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log_path = workspace / "server.log"
    env = os.environ | {"REID_DATA_DIR": str(workspace / "data"), "REID_DEFAULT_CHECKPOINT": str(checkpoint)}
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            [*reid_command(), "serve", "--port", str(port)], cwd=ROOT, env=env, stdout=log, stderr=log
        )
    try:
        wait_until_ready(url, server)
        yield RunningServer(url, server.pid)
    except (BenchmarkError, httpx.HTTPError, subprocess.CalledProcessError):
        tail = log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        say("the end of the server's log:\n  " + "\n  ".join(tail))
        raise
    finally:
        stop(server)


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    """Poll /readyz until it answers 200."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if server.poll() is not None:
            raise BenchmarkError(f"the server ended with exit code {server.returncode}")
        try:
            if httpx.get(f"{url}/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise BenchmarkError(f"the server was not ready after {START_TIMEOUT_S:.0f} s")


def stop(server: subprocess.Popen[bytes]) -> None:
    """Interrupt the server as Ctrl-C does, and kill it if it does not end."""
    server.send_signal(signal.SIGINT)
    try:
        server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def reid_command() -> list[str]:
    """Return the command `reid` of this environment, or `python -m` in a checkout that is not installed."""
    installed = Path(sys.executable).with_name("reid")
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "service.cli"]
