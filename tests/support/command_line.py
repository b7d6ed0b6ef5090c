"""The `reid` program as a user runs it, in a new process or in this process."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from typer.testing import CliRunner, Result

from live_server import TIMEOUT_S
from service.cli.main import app

ROOT = Path(__file__).parents[2]
REID = [sys.executable, "-m", "service.cli"]

MakeEnv = Callable[[Path], dict[str, str]]
"""Returns the environment variables of a new gallery in a folder."""


@dataclass(frozen=True)
class Server:
    """A running `reid serve`, and its output so far."""

    process: subprocess.Popen[str]
    url: str
    printed: str

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")


def reid(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*REID, *map(str, arguments)],
        cwd=ROOT,
        env=env or {**os.environ, "COLUMNS": "140"},
        text=True,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


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
    """Run `reid serve` on a free port, and wait until it has printed its first commands to try."""
    command = [*REID, "serve", "--port", "0", *options]
    with (
        log_path.open("w") as log,
        subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=log
        ) as process,
    ):
        try:
            printed = read_until(process, until)
            found = re.search(r"starting .*on (http://\S+),", printed)
            assert found, printed + log_path.read_text()
            yield Server(process, found[1], printed)
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Return the output of a process up to the first line with these words."""
    assert process.stdout
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            break
    return "".join(lines)
