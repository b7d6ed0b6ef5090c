"""The `reid` program as a user runs it, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from live_server import TIMEOUT_S

ROOT = Path(__file__).parents[2]
REID = [sys.executable, "-m", "service.cli"]


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
