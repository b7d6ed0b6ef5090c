"""`reid audit`: verify and export who did what, in the data folder and without a server."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.offline import audited_here, errors_of_gallery_as_sentences, opened_here, prepare
from service.cli.options import AsJson, DataDir
from service.cli.terminal import err, out, print_json, print_line

if TYPE_CHECKING:
    from service.audit.chain import Head
    from service.store.store import Store

app = typer.Typer(
    help="Who did what: verify that no row was changed or removed, and export the rows.",
    no_args_is_help=True,
)

HEAD = re.compile(r"(\d{1,18}):([0-9a-f]{64})")
MOST_SHOWN = 20


@app.command()
def verify(
    head: Annotated[
        str | None,
        typer.Option(help="A head that was noted before, from the log or an export, to tell a cut-off end."),
    ] = None,
    key_file: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="Another secret that has sealed rows; may repeat."),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Walk over the whole audit, and name each row that was changed, removed or moved; exit 1 if one was.

    Without --head an end that somebody has cut off cannot be told, if they have the whole database.
    """
    expected = _head(head)
    with _looked_at(data_dir, "cannot verify") as store:
        from service.audit.secret import read_secret, secret_file
        from service.audit.verification import verify as verify_chain

        own = secret_file(store.settings)
        paths = [*([own] if own.exists() else []), *(key_file or [])]
        secrets = {one.name: one for one in map(read_secret, paths)}
        with store.read() as session:
            found = verify_chain(session, secrets, expected)
    if as_json:
        print_json({**vars(found), "head": str(found.head)})
        raise typer.Exit(1 if found.faults else 0)
    for fault in found.faults[:MOST_SHOWN]:
        print_line(out, fault)
    if len(found.faults) > MOST_SHOWN:
        print_line(out, f"and {len(found.faults) - MOST_SHOWN} other faults")
    print_line(
        out,
        f"{found.num_rows} rows, {found.num_erased} mentions of people erased, head {found.head}: "
        + (f"{len(found.faults)} faults" if found.faults else "the chain is whole"),
    )
    raise typer.Exit(1 if found.faults else 0)


@app.command()
def export(
    action: Annotated[str | None, typer.Option(help="Only rows of this action, such as search.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only rows of this time (UTC) or later.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Only rows before this time (UTC).")] = None,
    data_dir: DataDir = None,
) -> None:
    """Print the rows as JSON, one a line, and the head of the chain on stderr. The rows name people."""
    from datetime import UTC

    with _looked_at(data_dir, "no export") as store:
        from service.audit.chain import head_of
        from service.audit.reading import Wanted, all_rows

        times = [None if one is None else one.replace(tzinfo=UTC) for one in (since, until)]
        with store.read() as session:
            head = head_of(session)
            for row in all_rows(session, Wanted(action=action, since=times[0], until=times[1])):
                typer.echo(json.dumps(row, default=_text, ensure_ascii=False))
    print_line(err, f"head {head}")


@app.command()
def expire(
    sealed_by: Annotated[
        str, typer.Option(help="The name of the lost secret, as `reid audit verify` gives it.")
    ],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete the rows older than REID_AUDIT_DAYS that a lost secret has sealed, as nobody can check them.

    The service deletes expired rows by itself, but only rows that it can check. Put the old audit.key back
    instead if you still have it: afterwards nobody can tell whether those rows were changed.
    """
    with (
        opened_here(data_dir, "nothing expired") as store,
        audited_here(store, "expire_audit", sealed_by=sealed_by) as audit,
    ):
        expired = audit.expire_lost(sealed_by)
    if as_json:
        print_json({"num_rows": expired.num_rows, **expired._asdict()})
    else:
        print_line(out, f"{expired.num_rows} rows deleted")
    if not expired.was_sealed:
        print_line(err, "the beginning of the chain could not be checked; the audit's newest row says so")


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _head(text: str | None) -> "Head | None":
    if text is None:
        return None
    from service.audit.chain import Head

    found = HEAD.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(
            "a head is a number, a colon and 64 hex digits, as the log has it", param_hint="--head"
        )
    return Head(int(found[1]), found[2])


@contextmanager
def _looked_at(data_dir: Path | None, failure: str) -> Iterator["Store"]:
    prepare(data_dir)
    from service.settings import read_settings
    from service.upkeep.opening import opened_to_look

    with errors_of_gallery_as_sentences(failure), opened_to_look(read_settings()) as store:
        yield store
