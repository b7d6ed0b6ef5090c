"""`reid check`, `reid backup` and `reid restore`: commands that open a data folder themselves.

They need no server, and `check` and `backup` may run beside one. What they import of the service is imported
by the command that runs, so that the other commands of `reid` start at once.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import DataDir
from service.cli.terminal import out, print_line

if TYPE_CHECKING:
    from service.store.store import Store
    from service.upkeep.backup import Contents
    from service.upkeep.check import Report


def check(
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild what can be rebuilt.")] = False,
    sample: Annotated[int, typer.Option(min=0, help="Items to embed anew and compare.")] = 100,
    data_dir: DataDir = None,
) -> None:
    """Compare database, crops, embeddings and index, beside a running service or without; say what differs.

    Nothing is changed without --repair, which makes embeddings anew from crops and removes what belongs to
    nothing. A crop that is gone cannot be made again: it is named.
    """
    _prepare(data_dir)
    from service.upkeep.check import check as check_gallery

    with _errors_as_sentences("cannot check"):
        report = check_gallery(_open_gallery(), num_recomputed=sample, repair=repair)
    _print_report(report)
    raise typer.Exit(0 if report.is_clean else 1)


def backup(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="The file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out crops that are gone from the disk.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Write a gallery, crops and networks included, to one file, beside a running service or without.

    The file can be restored into SQLite or PostgreSQL, whichever it came from. It holds people's images.
    """
    _prepare(data_dir)
    from service.settings import read_settings
    from service.upkeep.backup import backup as back_up
    from service.upkeep.backup import open_gallery

    with _errors_as_sentences("no backup"):
        contents = back_up(open_gallery(read_settings()), file, replace=force, allow_missing=allow_missing)
    missing = f", {contents.num_missing} crops missing" if contents.num_missing else ""
    print_line(out, f"{_count(contents)} in {file}{missing}")


def restore(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What `reid backup` wrote.")],
    erasures: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="Receipts, as `reid erasures` prints; may repeat."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Put a backup into an empty data folder and database; a torn file is refused, nothing is overwritten.

    People who were erased after the backup was made come back with it, unless --erasures names the receipts.
    """
    _prepare(data_dir)
    from service.settings import read_settings
    from service.upkeep.restore import read_receipts
    from service.upkeep.restore import restore as restore_gallery

    paths = erasures or []
    with _errors_as_sentences("not restored"):
        receipts = [
            receipt for path in paths for receipt in read_receipts(path.read_bytes().decode(), str(path))
        ]
        contents = restore_gallery(read_settings(), file, receipts)
    erased = f"; {contents.num_erased} items erased by receipts" if paths else ""
    print_line(out, f"{_count(contents)} restored{erased}")


def _prepare(data_dir: Path | None) -> None:
    """Put the option where the settings are read from, and show log lines."""
    from service.cli.logs import log_to_terminal

    if data_dir is not None:
        os.environ["REID_DATA_DIR"] = str(data_dir)
    log_to_terminal()


@contextmanager
def _errors_as_sentences(prefix: str) -> Iterator[None]:
    """End the command with one line and status 1 if the gallery cannot be read or written."""
    from sqlalchemy.exc import SQLAlchemyError

    from service.errors import ServiceError
    from service.store.failures import operator_message

    try:
        yield
    except (ServiceError, SQLAlchemyError, OSError) as error:
        print_line(out, f"{prefix}: {operator_message(error) or error}")
        raise typer.Exit(1) from None


def _open_gallery() -> "Store":
    """Open the gallery that the settings name. A running service may have the same gallery open.

    Raises:
        ServiceError: a setting has no usable value, there is no gallery, or the data folder is of another.
    """
    from service.settings import read_settings
    from service.store.database import make_engine, make_sessions, migrate, require_file
    from service.store.store import Store
    from service.upkeep.claim import claim_folder, refuse_lost_database

    settings = read_settings()
    require_file(settings.database_url)
    refuse_lost_database(settings)
    engine = make_engine(settings.database_url)
    migrate(engine)
    store = Store(settings, make_sessions(engine))
    claim_folder(store)
    return store


def _print_report(report: "Report") -> None:
    for finding in report.findings:
        print_line(out, f"{finding.kind}: {finding.detail}{' - repaired' if finding.repaired else ''}")
    if report.num_young:
        print_line(
            out,
            f"{report.num_young} crops are younger than ten minutes and belong to nothing yet; "
            "their requests may be under way",
        )
    print_line(
        out,
        f"{report.num_items} items checked, {report.num_recomputed} of them embedded anew: "
        + ("all is well" if report.is_clean else f"{len(report.findings)} findings"),
    )


def _count(contents: "Contents") -> str:
    return f"{contents.num_items} items, {contents.num_crops} crops, {contents.num_models} networks"
