"""What commands of `reid` share: options of one meaning, and errors that end in a sentence and status 1."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from service.cli.terminal import err, print_line
from service.client import ClientError

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option("--url", envvar="REID_URL", help="Where the service runs.")]
DataDir = Annotated[Path | None, typer.Option(help="Where all is kept.  [REID_DATA_DIR, or data]")]

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer of the service as it is.")]


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Let what goes wrong end the command with one line and status 1."""
    try:
        yield
    except ClientError as error:
        print_line(err, str(error))
        raise typer.Exit(1) from None
    except OSError as error:
        print_line(err, f"{error.filename}: {error.strerror}" if error.filename else str(error))
        raise typer.Exit(1) from None
