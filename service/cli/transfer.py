"""`reid export`, `reid import` and `reid erasures`: move whole galleries and receipts over the API."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from model.files import from_home
from service.cli.export import Format
from service.cli.export import export as export_gallery
from service.cli.filters import takes_filters
from service.cli.folders import find_crops_of_folder
from service.cli.options import DEFAULT_URL, AsJson, Duplicates, Url, errors_as_sentences
from service.cli.packing import pack
from service.cli.terminal import (
    OnProgress,
    err,
    out,
    print_existing,
    print_failures,
    print_json,
    print_line,
    print_more,
    print_warnings,
    progress_bar,
    warning_count,
)
from service.client import (
    Client,
    ClientError,
    ExistingFile,
    FailedCrop,
    FailedFile,
    Filters,
    Job,
    Refused,
    ServiceUnreachable,
    Warned,
    WarnedCrop,
)
from service.client import Layout as LayoutName
from service.uploads.layouts import Layout

INTERRUPTED = 130
"""The exit status of an import that Ctrl-C has cancelled, as shells use it."""

CANCELLED = "the import was cancelled; crops that were enrolled before stay"


@takes_filters
def export(
    target: Annotated[
        Path, typer.Option("--out", callback=from_home, help="The folder or tar to write; it must not exist.")
    ],
    filters: Filters,
    url: Url = DEFAULT_URL,
    layout: Annotated[Format, typer.Option("--format", help="The layout of the files.")] = Format.csv,
    min_cameras: Annotated[
        int, typer.Option(min=1, help="Only identities with crops of this many cameras or more.")
    ] = 1,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Write embeddings.npy too.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Crops to read at a time.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Export the items that pass the filters to files that `reid import` and the training can read.

    FORMAT "csv" is a folder with gallery.csv and the crops. "tar" is one file with the same contents.
    "market1501" is a folder whose crops are named as in Market-1501; its gallery.csv has the true names of
    identities and cameras. Items that are deleted during the export are left out.
    """
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
    gone = f", {exported.num_gone} deleted during the export" if exported.num_gone else ""
    failed = f", {len(exported.failures)} failed" if exported.failures else ""
    print_failures(exported.failures)
    if as_json:
        print_json({"out": str(target), "num_items": exported.num_items, "num_gone": exported.num_gone})
    else:
        print_line(out, f"{exported.num_items} items in {target}{gone}{failed}")
    raise typer.Exit(1 if exported.failures else 0)


def import_crops(
    path: Annotated[Path, typer.Argument(exists=True, help="A folder, a tar or a zip.")],
    url: Url = DEFAULT_URL,
    layout: Annotated[
        LayoutName, typer.Option(help="How to find the identity of a crop without gallery.csv.")
    ] = "flat",
    on_duplicate: Duplicates = "skip",
    camera_id: Annotated[str | None, typer.Option(help="The camera of crops without one.")] = None,
    identity_id: Annotated[str | None, typer.Option(help="The identity of crops without one.")] = None,
    captured_at: Annotated[str | None, typer.Option(help="The RFC 3339 time of crops without one.")] = None,
    track_id: Annotated[str | None, typer.Option(help="The track of crops without one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Enrol a folder or an archive of crops as background jobs. A crop that fails is reported.

    The identity, camera, time and track of each crop are read from gallery.csv, as `reid export` writes it.
    Without gallery.csv, LAYOUT says how to read them from the file names. Ctrl-C cancels the rest of the
    import; crops that were enrolled before stay.
    """
    started_s = time.monotonic()
    tally = _Tally()
    try:
        with errors_as_sentences(), Client(url) as client, progress_bar() as on_progress:
            send_archive = partial(
                client.import_archive,
                layout=layout,
                on_duplicate=on_duplicate,
                camera_id=camera_id,
                identity_id=identity_id,
                captured_at=captured_at,
                track_id=track_id,
            )
            if path.is_dir():
                _import_folder(client, path, Layout(layout), send_archive, tally, on_progress)
            elif path.suffix.lower() == ".csv":
                raise ClientError(f"{path} holds no crops: import the folder that has it and the crops")
            else:
                with path.open("rb") as archive:
                    job = send_archive(path.name, archive)
                _follow(client, job, tally, on_progress)
                if not tally.num_done:
                    print_line(err, f"{path} has no crops: pack JPEG, PNG, WebP or BMP files into it")
    finally:
        if as_json:
            print_json(vars(tally))
        else:
            print_line(out, f"{tally.summary()} in {time.monotonic() - started_s:.1f} s")
    raise typer.Exit(0 if tally.num_done and not tally.num_failed else 1)


def print_erasures(url: Url = DEFAULT_URL, as_json: AsJson = True) -> None:  # noqa: ARG001 - always JSON
    """Print the receipts of all erasures as JSON, for `reid restore --erasures`. Receipts hold no names."""
    with errors_as_sentences(), Client(url) as client:
        print_json(list(client.list_erasures()))


@dataclass
class _Tally:
    """Counts of all jobs of one import."""

    num_enrolled: int = 0
    num_existing: int = 0
    num_failed: int = 0
    num_skipped: int = 0
    num_warnings: int = 0

    @property
    def num_done(self) -> int:
        return self.num_enrolled + self.num_existing + self.num_failed

    def fail(self, failures: Sequence[FailedCrop]) -> None:
        print_failures(failures)
        self.num_failed += len(failures)

    def summary(self) -> str:
        existing = f", {self.num_existing} there already" if self.num_existing else ""
        skipped = f", {self.num_skipped} other files skipped" if self.num_skipped else ""
        warned = warning_count(self.num_warnings)
        return f"{self.num_enrolled} enrolled{existing}, {self.num_failed} failed{warned}{skipped}"


def _import_folder(
    client: Client,
    folder: Path,
    layout: Layout,
    send_archive: Callable[[str, BinaryIO], Job],
    tally: _Tally,
    on_progress: OnProgress,
) -> None:
    """Send a folder as one archive after the other, and follow the job of each."""
    found = find_crops_of_folder(folder, layout)
    print_line(err, found.summary())
    tally.fail(found.failures)
    total = len(found.crops) + len(found.failures)
    for part in pack(found.crops):
        tally.fail(part.failures)
        if not part.crops:
            continue
        job = send_archive("part.tar", part.archive)
        paths = [crop.path for crop in part.crops]
        _follow(client, job, tally, lambda done, _: on_progress(done, total), paths)


def _follow(
    client: Client, job: Job, tally: _Tally, on_progress: OnProgress, paths: Sequence[Path] = ()
) -> None:
    """Follow an import job to its end, and add its counts to the tally. Ctrl-C cancels the job.

    Args:
        client: of the service.
        job: the job to follow.
        tally: the counts of the whole import.
        on_progress: called with the progress of the whole import.
        paths: the file of each position in the archive, to name failed files; by default a failed file has
            its name in the archive.

    Raises:
        ClientError: the service went away; the message names the job, which the service goes on with.
        Exit: the job has failed or was cancelled.
    """
    before = tally.num_done
    is_stopped = False
    try:
        for job in client.follow_job(job):  # noqa: B020 - the newest state of the same job
            on_progress(before + job.done, before + job.total)
    except KeyboardInterrupt:
        is_stopped = True
        job = _cancel(client, job.id)
    except ServiceUnreachable as error:
        raise ClientError(
            f"{error}. Job {job.id} has done {job.done} of {job.total} crops, and goes on when the "
            f"service runs again: GET /jobs/{job.id}. To import the same crops again doubles nothing"
        ) from error
    tally.num_enrolled += job.num_enrolled
    tally.num_existing += job.num_existing
    tally.num_failed += job.num_failed
    tally.num_skipped += job.num_skipped
    tally.num_warnings += job.num_warnings
    _print_report(job, lambda file: paths[file.position] if paths else Path(file.name))
    if job.state != "succeeded":
        print_line(err, f"the import has failed: {job.error}" if job.state == "failed" else CANCELLED)
        raise typer.Exit(INTERRUPTED if is_stopped else 1)


def _print_report(job: Job, path_of: Callable[[FailedFile | ExistingFile | Warned], Path]) -> None:
    print_warnings(WarnedCrop(path_of(warning), warning.detail) for warning in job.warnings)
    print_more(job.num_warnings - len(job.warnings))
    for kind, num in job.skipped.items():
        print_line(err, f"skipped: {num} {kind}")
    print_existing((path_of(file), file.identity_id) for file in job.existing)
    print_more(job.num_existing - len(job.existing))
    print_failures(FailedCrop(path_of(error), error.detail) for error in job.errors)
    print_more(job.num_failed - len(job.errors))


def _cancel(client: Client, job_id: str) -> Job:
    try:
        return client.cancel_job(job_id)
    except Refused:  # the job had ended before it could be cancelled
        return client.get_job(job_id)
