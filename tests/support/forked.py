"""Processes that a test may kill: forks of a process that has already imported torch."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["service.api.app", "service.cli.serve", "training.train"])

Outputs = tuple[Path, Path] | None
"""Files or named pipes that take a process's stdout and its stderr; None leaves them where they are."""


class Process(Protocol):
    """The methods of a process that tests use, forked or not."""

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""

    def kill(self) -> None:
        """Send SIGKILL."""

    def send_signal(self, number: signal.Signals, /) -> None:
        """Send a signal."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code."""


class Fork:
    """A process of its own that calls a function; the methods are those of `subprocess.Popen`.


    Args:
        work: is called with `arguments`; of a module that can be imported.
        environment: what `os.environ` has in that process besides.
        outputs: where the process prints to.
        may_have_children: whether the process may start others; pytest then waits for its end.
    """

    def __init__(
        self,
        work: Callable[..., object],
        *arguments: Any,
        environment: dict[str, str],
        outputs: Outputs = None,
        may_have_children: bool = False,
    ) -> None:
        given = (environment, outputs, work, arguments)
        self._process = CONTEXT.Process(target=_run, args=given, daemon=not may_have_children)
        for name in {"COLUMNS", "LINES"} - os.environ.keys():
            os.unsetenv(name)  # readline sets them where Python does not see it
        self._process.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code.

        Raises:
            TimeoutError: the process has not ended in time.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self._process.pid} has not ended after {timeout} s")
        return self._process.exitcode


def _run(
    environment: dict[str, str], outputs: Outputs, work: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(environment)
    if outputs is not None:
        for number, path in enumerate(outputs, start=1):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(file, number)
            os.close(file)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - until the process ends
        sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    work(*arguments)
