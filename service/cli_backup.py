"""`reid backup` and `reid restore`: all of a gallery in one file, and anew from it; no service is needed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.options import DataDir, errors_as_sentences
from service.terminal import err, out, say

if TYPE_CHECKING:
    from service.settings import Settings


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write, a tar.")],
    data_dir: DataDir = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out crops that are gone from the disk.")
    ] = False,
) -> None:
    """Write all of the gallery into one file, as it is at one moment, beside a running service or without.

    The tables, crops and networks are in it, whichever database is behind the service: --data-dir and
    REID_DATABASE_URL say where all is, as they do for `reid serve`.
    """
    from service.backup import back_up

    with _explained("back up", data_dir) as settings:
        about = back_up(settings, file, force=force, allow_missing=allow_missing)
    missing = f", {about.missing_crops} missing" if about.missing_crops else ""
    counts = f"{about.items} items, {about.crops} crops{missing}, {about.models} networks"
    say(out, f"{counts} in {file}, {file.stat().st_size / 1e6:,.1f} MB")


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `reid backup` has written.")],
    data_dir: DataDir = None,
    erasures: Annotated[
        list[Path] | None,
        typer.Option(help="Receipts of erasures since, as `reid erasures` prints them; may repeat."),
    ] = None,
) -> None:
    """Make the gallery of a backup anew, in an empty data folder and an empty database.

    The file is verified before anything is written, and nothing is ever overwritten. What the receipts of
    --erasures name is left out: it reaches no disk again.
    """
    from service.receipts import read_receipts
    from service.restore import restore as restore_backup

    with _explained("restore", data_dir) as settings:
        receipts = [receipt for path in erasures or [] for receipt in read_receipts(path)]
        about, num_erased = restore_backup(settings, file, receipts)
    without = f", without {num_erased} that were erased since" if erasures else ""
    say(out, f"{about.items} items{without}, as of {about.created_at}, in {settings.data_dir.absolute()}")


@contextmanager
def _explained(what: str, data_dir: Path | None) -> Iterator["Settings"]:
    """Give the settings, and let what goes wrong end the command with one line and status 1."""
    from sqlalchemy.exc import SQLAlchemyError

    from service.errors import ServiceError
    from service.settings import read_settings
    from service.trouble import explain

    if data_dir is not None:
        os.environ["REID_DATA_DIR"] = str(data_dir)
    with errors_as_sentences():
        try:
            yield read_settings()
        except ServiceError as error:
            say(err, f"cannot {what}: {error}")
            raise typer.Exit(1) from None
        except SQLAlchemyError as error:
            say(err, f"cannot {what}: {explain(error) or str(error).splitlines()[0]}")
            raise typer.Exit(1) from None
