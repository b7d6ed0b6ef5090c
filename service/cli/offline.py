"""`reid check`, `reid backup` and `reid restore`: commands that open a data folder themselves.

The commands need no server, and `check` and `backup` can run while a server runs. Each command imports the
service inside its function, so that the other commands of `reid` start at once.
"""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.files import from_home
from service.cli.options import AsJson, DataDir, keep_private
from service.cli.terminal import err, out, print_json, print_line

if TYPE_CHECKING:
    from service.audit.log import Audit
    from service.store.store import Store
    from service.upkeep.backup import Contents
    from service.upkeep.check import Report


def check(
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what can be made again or deleted.")
    ] = False,
    undo_repair: Annotated[
        bool, typer.Option("--undo-repair", help="Put back what the last repair has replaced, and end.")
    ] = False,
    sample: Annotated[int, typer.Option(min=0, help="Items to embed again and compare.")] = 100,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare the database, crops, embeddings and index, and report differences. A service may be running.

    Without --repair nothing is written, and each finding says what --repair would do. With --repair, absent
    embeddings are made again from the crops, and crops without an item and a bad snapshot of the index are
    deleted. A wrong embedding is replaced only if two independent makings agree. The replaced embedding is
    kept for REID_KEEP_REPAIRED_DAYS, and --undo-repair puts it back. A missing crop cannot be made again, and
    is only reported.
    """
    prepare(data_dir)
    from service.settings import read_settings
    from service.upkeep.check import check as check_gallery
    from service.upkeep.opening import opened_to_change, opened_to_look
    from service.upkeep.repairs import undo_last_repair

    if repair and undo_repair:
        raise typer.BadParameter("give --repair or --undo-repair, not both")
    with errors_of_gallery_as_sentences("cannot check"):
        opened = opened_to_change if repair or undo_repair else opened_to_look
        with opened(read_settings()) as store:
            if undo_repair:
                num_undone = undo_last_repair(store)
                _tell({"num_undone": num_undone}, as_json, f"{num_undone} embeddings put back")
                raise typer.Exit
            report = check_gallery(store, num_recomputed=sample, repair=repair)
    if as_json:
        print_json({"is_clean": report.is_clean, **vars(report)})
    else:
        _print_report(report)
    raise typer.Exit(0 if report.is_clean else 1)


def backup(
    file: Annotated[Path, typer.Argument(dir_okay=False, callback=from_home, help="The file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out crops that are missing on the disk.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a gallery with its crops and networks to one file. A service may be running.

    A backup from SQLite can be restored into PostgreSQL, and the reverse. The file holds images of people.
    """
    prepare(data_dir)
    from service.settings import read_settings
    from service.upkeep.backup import backup as back_up
    from service.upkeep.backup import open_gallery

    with errors_of_gallery_as_sentences("no backup"):
        contents = back_up(open_gallery(read_settings()), file, replace=force, allow_missing=allow_missing)
    missing = f", {contents.num_missing} crops missing" if contents.num_missing else ""
    _tell({"file": str(file), **vars(contents)}, as_json, f"{_count(contents)} in {file}{missing}")


def restore(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A file that `reid backup` wrote.")
    ],
    erasures: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="Receipts that `reid erasures` printed; may repeat."),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into an empty data folder and database. A damaged file is refused.

    People who were erased after the backup was made come back, unless --erasures gives the receipts of their
    erasures.
    """
    prepare(data_dir)
    from service.settings import read_settings
    from service.upkeep.restore import read_receipts
    from service.upkeep.restore import restore as restore_gallery

    paths = erasures or []
    with errors_of_gallery_as_sentences("not restored"):
        receipts = [
            receipt for path in paths for receipt in read_receipts(path.read_bytes().decode(), str(path))
        ]
        contents = restore_gallery(read_settings(), file, receipts)
    erased = f"; {contents.num_erased} items erased by receipts" if paths else ""
    _tell(vars(contents), as_json, f"{_count(contents)} restored{erased}")


def _tell(result: dict[str, Any], as_json: bool, sentence: str) -> None:
    """Print a result as JSON, or as a sentence."""
    if as_json:
        print_json(result)
    else:
        print_line(out, sentence)


def prepare(data_dir: Path | None) -> None:
    """Set REID_DATA_DIR to the option if it was given, and show log lines."""
    from service.cli.logs import log_to_terminal

    if data_dir is not None:
        os.environ["REID_DATA_DIR"] = str(data_dir)
    keep_private()
    log_to_terminal()


@contextmanager
def opened_here(data_dir: Path | None, failure: str, *, may_be_new: bool = False) -> Iterator["Store"]:
    """Open a gallery to change it, without a server; an error ends the command with one line and status 1."""
    prepare(data_dir)
    from service.settings import read_settings
    from service.upkeep.opening import opened_to_change

    with (
        errors_of_gallery_as_sentences(failure),
        opened_to_change(read_settings(), may_be_new=may_be_new) as store,
    ):
        yield store


@contextmanager
def audited_here(store: "Store", action: str, **details: str | None) -> Iterator["Audit"]:
    """Let the audit say what somebody on this machine does, in the first transaction that commits."""
    from service.audit.entries import Entry, audited, record
    from service.audit.log import Audit

    audit = Audit(store)
    name = f"{getpass.getuser()} on the machine of the service"
    with audited(Entry(at=store.clock.now(), action=action, name=name, role="admin")):
        record((), **details)
        yield audit


@contextmanager
def errors_of_gallery_as_sentences(prefix: str) -> Iterator[None]:
    """End the command with one line and status 1 if the gallery cannot be read or written."""
    from sqlalchemy.exc import SQLAlchemyError

    from service.errors import ServiceError
    from service.store.failures import operator_message

    try:
        yield
    except (ServiceError, SQLAlchemyError, OSError) as error:
        print_line(err, f"{prefix}: {operator_message(error) or error}")
        raise typer.Exit(1) from None


def _print_report(report: "Report") -> None:
    for finding in report.findings:
        would = f" - --repair would {finding.remedy}" if finding.remedy and not finding.repaired else ""
        print_line(out, f"{finding.kind}: {finding.detail}{' - repaired' if finding.repaired else would}")
    if report.num_young:
        print_line(
            out,
            f"{report.num_young} crops are younger than ten minutes and belong to nothing yet; "
            "their requests may still be running",
        )
    if report.num_unlike and report.num_recomputed < report.num_items:
        print_line(
            out,
            "more embeddings may differ, because only some items were embedded anew: "
            f"--sample {report.num_items} takes all",
        )
    print_line(
        out,
        f"{report.num_items} items checked, {report.num_recomputed} of them embedded again: "
        + _conclusion(report),
    )


def _conclusion(report: "Report") -> str:
    num_names = sum(not finding.kind.is_damage for finding in report.findings)
    names = f", {num_names} names to look at" if num_names else ""
    return f"{'all is well' if report.is_clean else f'{len(report.findings) - num_names} findings'}{names}"


def _count(contents: "Contents") -> str:
    return f"{contents.num_items} items, {contents.num_crops} crops, {contents.num_models} networks"
