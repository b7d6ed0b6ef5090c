"""Locks among processes: held by one at a time, and free when its process is killed."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.store.locks import is_locked, lock_of
from service.store.workspace import purge_abandoned

HOLDER = """
import sys
from pathlib import Path
from service.store.workspace import workspace

with workspace(Path(sys.argv[1]), ".copy-") as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process(parent: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that works in a folder of its own until it is killed, and that folder."""
    command = [sys.executable, "-c", HOLDER, str(parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    with other_process(tmp_path) as (process, folder):
        assert is_locked(folder / "lock")
        purge_abandoned(tmp_path, ".copy-")
        assert folder.exists()
        process.kill()
        process.wait()
        assert not is_locked(folder / "lock")
        purge_abandoned(tmp_path, ".copy-")
        assert list(tmp_path.iterdir()) == []


def test_a_folder_without_its_lock_file_is_abandoned(tmp_path: Path) -> None:
    (tmp_path / ".copy-1").mkdir()
    purge_abandoned(tmp_path, ".copy-")
    assert list(tmp_path.iterdir()) == []


def test_threads_of_one_process_wait_for_each_other(tmp_path: Path) -> None:
    has_lock = threading.Event()

    def take() -> None:
        with lock_of(tmp_path / "lock"):
            has_lock.set()

    thread = threading.Thread(target=take)
    with lock_of(tmp_path / "lock"):
        thread.start()
        assert not has_lock.wait(0.2)
    assert has_lock.wait(10)
    thread.join()
