"""Processes that a test may kill: forks of a process that has already imported torch."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any, Protocol

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["service.api.app", "service.cli.serve"])


class Process(Protocol):
    """The methods of a process that tests use, forked or not."""

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""

    def kill(self) -> None:
        """Send SIGKILL."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code."""


class Fork:
    """A forked process that calls a function; the methods are those of `subprocess.Popen`.

    Args:
        work: the function, of a module that can be imported.
        arguments: of the function.
        environment: variables that are added to `os.environ` in the new process.
    """

    def __init__(self, work: Callable[..., object], *arguments: Any, environment: dict[str, str]) -> None:
        self._process = CONTEXT.Process(target=_run, args=(environment, work, arguments), daemon=True)
        self._process.start()

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
        if self._process.pid is not None and self.poll() is None:
            os.kill(self._process.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code.

        Raises:
            TimeoutError: the process has not ended in time.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self._process.pid} has not ended after {timeout} s")
        return self._process.exitcode


def _run(environment: dict[str, str], work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    work(*arguments)
