"""A server whose data folder is a small disk of its own, which a test may fill."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from killed_server import ROOT, wait_for
from live_server import TIMEOUT_S, find_free_port, wait_until
from service.settings import Settings

IN_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
MAY_MOUNT = not subprocess.run([*IN_NAMESPACE, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode


@contextmanager
def serve_on_small_disk(
    folder: Path, settings: Settings, megabytes: int, **variables: str
) -> Iterator[httpx.Client]:
    """Run a server whose data folder is a disk of its own; `folder/commands` takes shell lines for there.

    What the server logs is in `folder/log`. `variables` are more variables of its environment.
    """
    port = find_free_port()
    pipe = folder / "commands"
    os.mkfifo(pipe)
    environment = (
        os.environ
        | {
            "REID_DATA_DIR": str(folder / "disk"),
            "REID_DEFAULT_CHECKPOINT": str(settings.default_checkpoint),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        | variables
    )
    script = (
        f"mount -t tmpfs -o size={megabytes}m tmpfs {folder}/disk; cp -r {settings.data_dir}/. {folder}/disk"
        f'; "$0" -c "$1" & while :; do sh {pipe}; done'
    )
    server = f"from killed_server import run_server; run_server({port}, is_silent=False)"
    command = [*IN_NAMESPACE, script, sys.executable, server]
    (folder / "disk").mkdir()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S) as client:
            wait_for(client, process)
            yield client
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def run_on_disk(folder: Path, command: str) -> None:
    """Run a shell line where the server's disk is, and wait for its end."""
    done = folder / "done"
    (folder / "commands").write_text(f"{command}; touch {done}\n")
    wait_until(done.exists)
    done.unlink()
