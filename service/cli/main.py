"""The `reid` program: serve a gallery, and use a running service over its API.

A command imports torch and the app inside its function if it needs them, so that the other commands start
at once.
"""

import errno
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import audit as cli_audit
from service.cli import enroll as cli_enroll
from service.cli import jobs as cli_jobs
from service.cli import keys as cli_keys
from service.cli import models as cli_models
from service.cli import offline
from service.cli import overview as cli_overview
from service.cli import people as cli_people
from service.cli import retention as cli_retention
from service.cli import retrain as cli_retrain
from service.cli import transfer as cli_transfer
from service.cli.filters import takes_filters
from service.cli.options import DEFAULT_URL, AsJson, DataDir, Url, errors_as_sentences
from service.cli.terminal import (
    err,
    out,
    print_json,
    print_line,
    print_matches,
    print_verification,
    replace_unprintable,
)
from service.client import Client, Filters, GroupBy, Sought


class Program(typer.Typer):
    """The `reid` program; its output suits the encoding of any terminal."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program; a full disk under the file that takes its output is told in a sentence."""
        replace_unprintable()
        try:
            return super().__call__(*args, **kwargs)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            print_line(err, f"the output, or a file, cannot be written: {error.strerror}")
            raise SystemExit(1) from None


app = Program(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _print_versions(is_asked: bool) -> None:
    if is_asked:
        from service.api.about import API_VERSION, program_version, schema_version

        print_line(out, f"reid-gallery {program_version()}, API {API_VERSION}, schema {schema_version()}")
        raise typer.Exit


@app.callback()
def program(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_versions, is_eager=True, help="Print the versions, and end."
        ),
    ] = False,
) -> None:
    """Person re-identification gallery: serve it, enrol crops, search them, swap networks."""


app.add_typer(cli_people.app, name="people")
app.add_typer(cli_jobs.app, name="jobs")
app.add_typer(cli_models.app, name="models")
app.add_typer(cli_retention.app, name="retention")
app.add_typer(cli_keys.app, name="keys")
app.add_typer(cli_audit.app, name="audit")

CropsOfOne = Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Crops of one person.")]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [REID_HOST, or 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.  [REID_PORT, or 8000]")] = None,
    data_dir: DataDir = None,
    workers: Annotated[
        int | None, typer.Option(help="Server processes; each holds the whole index.  [REID_WORKERS, or 1]")
    ] = None,
) -> None:
    """Serve the gallery until Ctrl-C. Running requests are finished before the service stops."""
    from service.cli.serve import launch

    options = {"REID_HOST": host, "REID_PORT": port, "REID_DATA_DIR": data_dir, "REID_WORKERS": workers}
    raise typer.Exit(launch({name: str(value) for name, value in options.items() if value is not None}))


app.command()(offline.check)
app.command()(offline.backup)
app.command()(offline.restore)


app.command()(cli_enroll.enroll)


@app.command()
@takes_filters
def search(
    filters: Filters,
    files: Annotated[
        list[Path] | None, typer.Argument(exists=True, dir_okay=False, help="Crops of one person.")
    ] = None,
    url: Url = DEFAULT_URL,
    item_id: Annotated[
        list[str] | None, typer.Option(help="A stored item that shows the person; may repeat.")
    ] = None,
    query_identity_id: Annotated[str | None, typer.Option(help="Look for this identity.")] = None,
    not_item_id: Annotated[
        list[str] | None, typer.Option(help="A stored item of somebody else, which pushes away; may repeat.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, max=1000, help="How many matches to return.")] = 10,
    group_by: Annotated[
        GroupBy, typer.Option(help="What to rank: identities, tracks, cameras or items.")
    ] = "identity",
    min_score: Annotated[float | None, typer.Option(help="Leave out matches with a lower score.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search for one person, by crops, by stored items, by an identity, or by several of these."""
    stored = Sought(item_id=item_id, query_identity_id=query_identity_id, not_item_id=not_item_id)
    with errors_as_sentences(), Client(url) as client:
        answer = client.search(
            files or [], top_k=top_k, group_by=group_by, min_score=min_score, **stored, **filters
        )
    if as_json:
        print_json(answer)
    else:
        print_matches(answer)


@app.command()
def verify(
    files: CropsOfOne,
    url: Url = DEFAULT_URL,
    against: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="A crop to compare with; may repeat for one person."),
    ] = None,
    identity: Annotated[
        str | None, typer.Option(help="The identity to compare with, instead of --against.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether crops show the same person as other crops, or as an identity of the gallery."""
    with errors_as_sentences(), Client(url) as client:
        answer = client.verify(files, others=against or [], identity_id=identity)
    if as_json:
        print_json(answer)
    else:
        print_verification(answer)


app.command()(cli_overview.cameras)
app.command()(cli_overview.stats)
app.command()(cli_transfer.export)
app.command("import")(cli_transfer.import_crops)
app.command()(cli_retrain.retrain)
app.command()(cli_keys.login)
app.command()(cli_keys.logout)
app.command("erasures")(cli_transfer.print_erasures)
