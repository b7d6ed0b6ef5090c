"""`reid export`, `reid import` and `reid erasures`: what goes in and out of a running service in bulk."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from service.cli.export import Format
from service.cli.export import export as export_gallery
from service.cli.options import DEFAULT_URL, Url, errors_as_sentences
from service.cli.packing import find_rows, pack
from service.cli.terminal import (
    OnProgress,
    err,
    out,
    print_failures,
    print_line,
    print_warnings,
    progress_bar,
    warning_count,
)
from service.client import Client, FailedCrop, Filters, Job, OnDuplicate, Refused, WarnedCrop
from service.client import Layout as LayoutName
from service.uploads.layouts import Layout

INTERRUPTED = 130
"""The exit code of what Ctrl-C has ended."""

CANCELLED = "the import was cancelled; what is enrolled stays"

Many = list[str] | None


def export(
    target: Annotated[Path, typer.Option("--out", help="The folder, or the tar, to write.")],
    url: Url = DEFAULT_URL,
    layout: Annotated[Format, typer.Option("--format", help="What to write.")] = Format.csv,
    identity_id: Annotated[Many, typer.Option(help="Only this person; may repeat.")] = None,
    exclude_identity_id: Annotated[Many, typer.Option(help="Not this person; may repeat.")] = None,
    camera_id: Annotated[Many, typer.Option(help="Only this camera; may repeat.")] = None,
    exclude_camera_id: Annotated[Many, typer.Option(help="Not this camera; may repeat.")] = None,
    track_id: Annotated[Many, typer.Option(help="Only this track; may repeat.")] = None,
    attribute: Annotated[Many, typer.Option(help="Only people with this name=value; may repeat.")] = None,
    captured_after: Annotated[str | None, typer.Option(help="At this RFC 3339 time or later.")] = None,
    captured_before: Annotated[str | None, typer.Option(help="Before this time.")] = None,
    min_cameras: Annotated[int, typer.Option(min=1, help="Only people whom so many cameras saw.")] = 1,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Write embeddings.npy too.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Crops to read at once.")] = 4,
) -> None:
    """Write the gallery, or what the filters let through, to files that `reid import` and training read.

    "csv" is a folder with gallery.csv and crops; "tar" is the same in one file; "market1501" names the crops
    as that data set does, and gallery.csv keeps the true names. What is deleted meanwhile is left out.
    """
    filters: Filters = {
        "identity_id": identity_id,
        "exclude_identity_id": exclude_identity_id,
        "camera_id": camera_id,
        "exclude_camera_id": exclude_camera_id,
        "track_id": track_id,
        "attribute": attribute,
        "captured_after": captured_after,
        "captured_before": captured_before,
    }
    with errors_as_sentences(), Client(url) as client, progress_bar() as on_progress:
        exported = export_gallery(
            client,
            target,
            layout,
            filters,
            min_cameras=min_cameras,
            embeddings=embeddings,
            concurrency=concurrency,
            on_progress=on_progress,
        )
    gone = f", {exported.num_gone} deleted meanwhile" if exported.num_gone else ""
    failed = f", {len(exported.failures)} failed" if exported.failures else ""
    print_failures(exported.failures)
    print_line(out, f"{exported.num_items} items in {target}{gone}{failed}")
    raise typer.Exit(1 if exported.failures else 0)


def import_crops(
    path: Annotated[Path, typer.Argument(exists=True, help="A folder, a tar or a zip.")],
    url: Url = DEFAULT_URL,
    layout: Annotated[
        LayoutName, typer.Option(help="What says who is on a crop, without gallery.csv.")
    ] = "flat",
    on_duplicate: Annotated[
        OnDuplicate, typer.Option(help="What to do with a crop that its camera has sent before.")
    ] = "store",
    camera_id: Annotated[str | None, typer.Option(help="The camera of crops that name none.")] = None,
    identity_id: Annotated[str | None, typer.Option(help="The person on crops that name none.")] = None,
    captured_at: Annotated[str | None, typer.Option(help="The time of crops that name none.")] = None,
    track_id: Annotated[str | None, typer.Option(help="The track of crops that name none.")] = None,
) -> None:
    """Enrol a folder or an archive of crops in the background; say which failed, and go on with the others.

    What is known of the crops stands in gallery.csv, as `reid export` writes it, or else in their names, as
    LAYOUT says. Ctrl-C cancels what is not enrolled yet.
    """
    send_archive = partial(
        Client.import_archive,
        layout=layout,
        on_duplicate=on_duplicate,
        camera_id=camera_id,
        identity_id=identity_id,
        captured_at=captured_at,
        track_id=track_id,
    )
    started_s = time.monotonic()
    tally = _Tally()
    try:
        with errors_as_sentences(), Client(url) as client, progress_bar() as on_progress:
            if path.is_dir():
                _import_folder(client, path, Layout(layout), send_archive, tally, on_progress)
            else:
                with path.open("rb") as archive:
                    job = send_archive(client, path.name, archive)
                _await(client, job, tally, on_progress)
    finally:
        skipped = f", {tally.num_skipped} other files skipped" if tally.num_skipped else ""
        took_s = time.monotonic() - started_s
        said = f"{tally.num_enrolled} enrolled, {tally.num_failed} failed{warning_count(tally.num_warnings)}"
        print_line(out, f"{said}{skipped} in {took_s:.1f} s")
    raise typer.Exit(1 if tally.num_failed else 0)


def print_erasures(url: Url = DEFAULT_URL) -> None:
    """Print the receipts of all erasures as JSON, for `reid restore --erasures`; they hold no names."""
    with errors_as_sentences(), Client(url) as client:
        typer.echo(json.dumps(list(client.list_erasures()), indent=2))


@dataclass
class _Tally:
    num_enrolled: int = 0
    num_failed: int = 0
    num_skipped: int = 0
    num_warnings: int = 0

    @property
    def num_done(self) -> int:
        return self.num_enrolled + self.num_failed

    def fail(self, failures: Sequence[FailedCrop]) -> None:
        print_failures(failures)
        self.num_failed += len(failures)


def _import_folder(
    client: Client,
    folder: Path,
    layout: Layout,
    send_archive: Callable[[Client, str, BinaryIO], Job],
    tally: _Tally,
    on_progress: OnProgress,
) -> None:
    found = find_rows(folder, layout)
    print_line(err, f"{len(found.rows)} crops found, {found.num_skipped} other files skipped")
    tally.fail(found.failures)
    total = len(found.rows) + len(found.failures)
    for part in pack(found.rows):
        tally.fail(part.failures)
        job = send_archive(client, "part.tar", part.archive)
        _await(client, job, tally, lambda done, _: on_progress(done, total), [row.path for row in part.rows])


def _await(
    client: Client, job: Job, tally: _Tally, on_progress: OnProgress, paths: Sequence[Path] = ()
) -> None:
    """Show how far a job is until it has ended, and say what it could not enrol; Ctrl-C cancels it.

    Files are named by `paths`, or as they are in the archive.

    Raises:
        ClientError: it has not done all that it was to do.
    """
    before = tally.num_done
    is_stopped = False
    try:
        for job in client.follow_job(job):  # noqa: B020 - the same one, later
            on_progress(before + job["done"], before + job["total"])
    except KeyboardInterrupt:
        is_stopped = True
        job = _cancel(client, job["id"])
    tally.num_enrolled += job["done"] - job["num_failed"]
    tally.num_failed += job["num_failed"]
    tally.num_skipped += job["num_skipped"]
    tally.num_warnings += job["num_warnings"]
    _print_files(job, paths)
    if job["state"] != "succeeded":
        print_line(err, f"the import has failed: {job['error']}" if job["state"] == "failed" else CANCELLED)
        raise typer.Exit(INTERRUPTED if is_stopped else 1)


def _print_files(job: Job, paths: Sequence[Path]) -> None:
    """Print the files that a job could not enrol, and those that it has enrolled with a warning."""
    for error in job["errors"]:
        path = paths[error["position"]] if paths else Path(error["name"])
        print_failures([FailedCrop(path, error["detail"])])
    if job["num_failed"] > len(job["errors"]):
        print_line(err, f"and {job['num_failed'] - len(job['errors'])} others")
    for warning in job["warnings"]:
        path = paths[warning["position"]] if paths else Path(warning["name"])
        print_warnings([WarnedCrop(path, warning["detail"])])
    if job["num_warnings"] > len(job["warnings"]):
        print_line(err, f"and {job['num_warnings'] - len(job['warnings'])} other warnings")


def _cancel(client: Client, job_id: str) -> Job:
    try:
        return client.cancel_job(job_id)
    except Refused:  # it has ended by itself
        return client.get_job(job_id)
