"""The training commands as a user runs them, in a fork of a process that has loaded the libraries."""

import importlib
import resource
import subprocess
import sys
from pathlib import Path

import typer

from forked import Fork


def start_command(name: str, *arguments: object, folder: Path, max_file_bytes: int | None = None) -> Fork:
    """Start `python training/NAME.py ARGUMENTS`, which prints to `stdout` and `stderr` in a folder.

    The disk of the command takes no file of more than `max_file_bytes`.
    """
    outputs = folder / "stdout", folder / "stderr"
    command = [str(argument) for argument in arguments]
    environment = {"OMP_NUM_THREADS": "1"}
    return Fork(
        be_command,
        name,
        command,
        max_file_bytes,
        environment=environment,
        outputs=outputs,
        may_have_children=True,
    )


def run_command(
    name: str, *arguments: object, folder: Path, max_file_bytes: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python training/NAME.py ARGUMENTS` to its end."""
    process = start_command(name, *arguments, folder=folder, max_file_bytes=max_file_bytes)
    code = process.wait()
    stdout, stderr = ((folder / output).read_text() for output in ("stdout", "stderr"))
    return subprocess.CompletedProcess([name, *map(str, arguments)], code, stdout, stderr)


def be_command(name: str, arguments: list[str], max_file_bytes: int | None) -> None:
    """Be `python training/NAME.py`."""
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    sys.argv = [f"training/{name}.py", *arguments]
    typer.run(importlib.import_module(f"training.{name}").main)
