"""Options and error handling that several commands of `reid` share."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from service.cli.terminal import err, print_line
from service.client import ClientError, OnDuplicate

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option("--url", envvar="REID_URL", help="URL of the service.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the database, crops and networks.  [REID_DATA_DIR, or data]")
]

Duplicates = Annotated[
    OnDuplicate,
    typer.Option(
        "--on-duplicate",
        help="What to do if the same camera has sent the same bytes before: count the crop as there already "
        "(skip, return), enrol the crop again (store), or count the crop as failed (reject).",
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

Limit = Annotated[int, typer.Option(min=1, help="The most to list.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; needed where nobody can answer.")]


def require_yes(is_given: bool, question: str) -> None:
    """Ask a person for a yes, unless the option has given it; without it the command ends with status 1."""
    if is_given:
        return
    if not sys.stdin.isatty():
        print_line(err, f"{question} Nobody is there to answer: say --yes")
        raise typer.Exit(1)
    typer.confirm(question, abort=True, err=True)


def keep_private() -> None:
    """Let this process make files and folders that no other user of the machine can read."""
    os.umask(0o077)


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """End the command with one line on stderr and exit status 1 if the service or a file fails."""
    try:
        yield
    except ClientError as error:
        print_line(err, str(error))
        raise typer.Exit(1) from None
    except OSError as error:
        reason = error.strerror or str(error)
        print_line(err, f"{error.filename or 'a file cannot be read or written'}: {reason}")
        raise typer.Exit(1) from None
