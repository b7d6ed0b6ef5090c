"""The `reid` program as a user runs it, in a process of its own or in this one.

The processes are forks of one that has loaded the libraries, because an import of torch takes seconds. The
commands of README.md, which `tests/docs` runs, and workers begin with the program itself.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import httpx
from typer.testing import CliRunner, Result

from forked import Fork, Process
from live_server import TIMEOUT_S, wait_until
from service.cli.main import app
from service.cli.terminal import err, out

ROOT = Path(__file__).parents[2]
REID = [sys.executable, "-m", "service.cli"]

MakeEnv = Callable[[Path], dict[str, str]]
"""Returns the environment variables of a new gallery in a folder."""


@dataclass(frozen=True)
class Server:
    """A running `reid serve`, its log, and what it had written when it was ready."""

    process: Process
    log: TextIO
    url: str
    printed: str

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")


def reid(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of `reid` to its end."""
    command = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory(prefix="reid") as folder:
        outputs = Path(folder) / "stdout", Path(folder) / "stderr"
        process = Fork(be_reid, command, environment=env or {"COLUMNS": "140"}, outputs=outputs)
        code = process.wait(TIMEOUT_S)
        stdout, stderr = (path.read_text() for path in outputs)
    assert "Traceback" not in stderr
    return subprocess.CompletedProcess(command, code, stdout, stderr)


def be_reid(command: list[str], folder: str | Path = ROOT) -> None:
    """Be the `reid` program in a folder."""
    os.chdir(folder)
    sys.argv = ["reid", *command]
    for console in (out, err):  # made before this process got its environment
        console.width = int(os.environ.get("COLUMNS", "80"))
    app()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def run(client: httpx.Client, *arguments: str | Path) -> Result:
    """Run a command of `reid` against a server, in this process."""
    command = [*map(str, arguments), "--url", str(client.base_url)]
    return CliRunner().invoke(app, command, catch_exceptions=False, env={"COLUMNS": "140"})


@contextmanager
def reid_serve(
    env: dict[str, str], log_path: Path, *options: str, until: str = "webbrowser"
) -> Iterator[Server]:
    """Run `reid serve` on a free port until it has printed what to try."""
    command = ["serve", "--port", "0", *options]
    process = Fork(be_reid, command, environment=env, outputs=(Path(os.devnull), log_path))
    with _told(process, log_path, until) as server:
        yield server


@contextmanager
def reid_serve_by_workers(env: dict[str, str], log_path: Path, num_workers: int) -> Iterator[Server]:
    """Run `reid serve` with worker processes, which no fork may have, until one of them is ready."""
    command = [*REID, "serve", "--port", "0", "--workers", str(num_workers)]
    with (
        log_path.open("w") as log,
        subprocess.Popen(command, cwd=ROOT, env=env, text=True, stderr=log) as process,
        _told(process, log_path, until="items in the gallery") as server,
    ):
        yield server


@contextmanager
def _told(process: Process, log_path: Path, until: str) -> Iterator[Server]:
    """Wait until a server has said where it is; end the server afterwards."""
    wait_until(log_path.exists)
    with log_path.open() as log:
        try:
            printed = read_until(log, until)
            found = re.search(r'(?:starting .*on |"url": ")(https?://[^\s,"]+)', printed)
            assert found, printed
            yield Server(process, log, found[1], printed)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(TIMEOUT_S)


def read_until(log: TextIO, words: str) -> str:
    """Return what a server has written since the last call, up to the line that holds these words."""
    lines = [""]

    def has_come() -> bool:
        while line := log.readline():
            lines[-1] += line  # the end of a line may not be written yet
            if line.endswith("\n"):
                lines.append("")
                if words in line:
                    return True
        return False

    wait_until(has_come)
    return "".join(lines)
