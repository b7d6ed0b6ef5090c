"""A full disk is named as a full disk, by the first connection to a database and by an export."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from command_line import REID
from killed_server import ROOT
from live_server import crop, enroll
from small_disk import IN_NAMESPACE, MAY_MOUNT

pytestmark = pytest.mark.skipif(not MAY_MOUNT, reason="this user may not mount a small disk")

OPEN_ON_FULL_DISK = """
import subprocess, sys
from pathlib import Path
from service.store.database import make_engine, migrate, sqlite_url
from service.store.failures import operator_message
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

folder = Path(sys.argv[1])
engine = make_engine(sqlite_url(folder / "gallery.sqlite3"))
migrate(engine)
engine.dispose()
subprocess.run(["dd", "if=/dev/zero", f"of={folder / 'filler'}", "bs=1K"], stderr=subprocess.DEVNULL)
try:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1 FROM items"))
except SQLAlchemyError as error:
    print(operator_message(error))
"""


def run_on_small_disk(folder: Path, kilobytes: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command where `folder` is an empty disk of its own."""
    script = f'mount -t tmpfs -o size={kilobytes}k tmpfs "$0" && exec "$@"'
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    whole = [*IN_NAMESPACE, script, str(folder), *command]
    return subprocess.run(whole, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_q_a_database_that_is_opened_on_a_full_disk_says_so(tmp_path: Path) -> None:
    done = run_on_small_disk(tmp_path, 2_048, sys.executable, "-c", OPEN_ON_FULL_DISK, str(tmp_path))
    assert done.stdout.startswith("there is no room left for the data folder"), done.stderr


@pytest.mark.parametrize("layout", ["csv", "tar"])
def test_q_an_export_that_finds_the_disk_full_says_so_and_leaves_nothing(
    client: httpx.Client, tmp_path: Path, layout: str
) -> None:
    enroll(client, *(crop(seed) for seed in range(64)))
    out = tmp_path / "export"
    script = '"$@"; echo $?; ls -A "$0"'
    options = ("--out", str(out), "--format", layout, "--url", str(client.base_url))
    done = run_on_small_disk(tmp_path, 64, "sh", "-c", script, str(tmp_path), *REID, "export", *options)
    assert done.stderr.endswith("a file cannot be read or written: No space left on device\n")
    assert done.stdout == "1\n"
