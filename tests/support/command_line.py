"""The `reid` program as a user runs it, in a process of its own or in this one.

The processes are forks of one that has loaded the libraries, because an import of torch takes seconds. The
commands of README.md and of `docs/`, which `tests/docs` runs, begin with the program itself.
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
from live_server import TIMEOUT_S
from service.cli.main import app
from service.cli.terminal import err, out

ROOT = Path(__file__).parents[2]
REID = [sys.executable, "-m", "service.cli"]

MakeEnv = Callable[[Path], dict[str, str]]
"""Returns the environment variables of a new gallery in a folder."""


@dataclass(frozen=True)
class Server:
    """A running `reid serve`, and its output so far."""

    process: Process
    stdout: TextIO
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


def be_reid(command: list[str]) -> None:
    """Be the `reid` program."""
    os.chdir(ROOT)
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
    pipe = log_path.with_name(f"{log_path.name}.stdout")
    os.mkfifo(pipe)
    command = ["serve", "--port", "0", *options]
    process = Fork(be_reid, command, environment=env, outputs=(pipe, log_path))
    with pipe.open() as stdout, _told(process, stdout, log_path, until) as server:
        yield server


@contextmanager
def reid_serve_by_workers(env: dict[str, str], log_path: Path, num_workers: int) -> Iterator[Server]:
    """Run `reid serve` with worker processes, which no fork may have, until one of them is ready."""
    command = [*REID, "serve", "--port", "0", "--workers", str(num_workers)]
    with (
        log_path.open("w") as log,
        subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=-1, stderr=log) as process,
    ):
        assert process.stdout
        stdout: TextIO = process.stdout  # type: ignore[assignment] # it is one by `text`
        with _told(process, stdout, log_path, until="ready") as server:
            yield server


@contextmanager
def _told(process: Process, stdout: TextIO, log_path: Path, until: str) -> Iterator[Server]:
    """Wait until a server has said where it is; end the server afterwards."""
    try:
        printed = read_until(stdout, until)
        found = re.search(r"starting .*on (http://\S+),", printed)
        assert found, printed + log_path.read_text()
        yield Server(process, stdout, found[1], printed)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(TIMEOUT_S)


def read_until(stdout: TextIO, words: str) -> str:
    """Return what a process prints up to the line that holds these words."""
    lines: list[str] = []
    for line in stdout:
        lines.append(line)
        if words in line:
            break
    return "".join(lines)
