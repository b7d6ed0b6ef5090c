"""`reid enroll`: enrol the crops of files and folders by requests."""

import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.folders import check_layout, find_crops
from service.cli.options import DEFAULT_URL, AsJson, Duplicates, Url, errors_as_sentences
from service.cli.terminal import (
    err,
    out,
    print_existing,
    print_failures,
    print_json,
    print_line,
    print_warnings,
    progress_bar,
    warning_count,
)
from service.client import BatchResult, Client, enroll_in_batches
from service.uploads.layouts import Layout

Crops = Annotated[list[Path], typer.Argument(exists=True, help="Crops, or folders of crops.")]


@dataclass
class _Tally:
    """What has become of the crops, as `--json` prints it."""

    num_enrolled: int = 0
    num_existing: int = 0
    num_failed: int = 0
    num_warnings: int = 0
    num_not_tried: int = 0
    seconds: float = 0.0
    existing: list[dict[str, str]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)

    def add(self, result: BatchResult) -> None:
        """Count a batch, and print a line for each crop that is not simply enrolled."""
        print_existing(result.existing)
        print_failures(result.failures)
        print_warnings(result.warnings)
        self.num_enrolled += result.num_enrolled
        self.num_existing += len(result.existing)
        self.num_failed += len(result.failures)
        self.num_warnings += len(result.warnings)
        self.existing += [{"path": str(path), "identity_id": name} for path, name in result.existing]
        self.failures += [{"path": str(one.path), "detail": one.reason} for one in result.failures]
        self.warnings += [{"path": str(one.path), "detail": one.detail} for one in result.warnings]

    @property
    def num_done(self) -> int:
        return self.num_enrolled + self.num_existing + self.num_failed

    def summary(self) -> str:
        existing = f", {self.num_existing} there already" if self.num_existing else ""
        not_tried = f", {self.num_not_tried} not tried" if self.num_not_tried else ""
        warned = warning_count(self.num_warnings)
        rate = f"{self.seconds:.1f} s, {self.num_enrolled / self.seconds:.1f} a second"
        return (
            f"{self.num_enrolled} enrolled{existing}, {self.num_failed} failed{warned}{not_tried} in {rate}"
        )


def enroll(
    paths: Crops,
    url: Url = DEFAULT_URL,
    layout: Annotated[Layout, typer.Option(help="How to find the identity of a crop.")] = Layout.flat,
    camera_id: Annotated[str | None, typer.Option(help="The camera of all crops.")] = None,
    identity_id: Annotated[str | None, typer.Option(help="The identity of all crops.")] = None,
    captured_at: Annotated[str | None, typer.Option(help="The RFC 3339 time of all crops.")] = None,
    track_id: Annotated[str | None, typer.Option(help="The track of all crops.")] = None,
    on_duplicate: Duplicates = "skip",
    look: Annotated[
        bool, typer.Option("--check-layout/--no-check-layout", help="Refuse a LAYOUT that does not fit.")
    ] = True,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Requests at a time.")] = 4,
    batch: Annotated[int, typer.Option(min=1, max=64, help="Crops per request.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Enrol crops. A crop that fails is reported, and the others are enrolled.

    LAYOUT "folders" takes the name of a crop's folder as its identity. "market1501" reads the identity and
    the camera from the file name, such as 0002_c1s1_000451_03.jpg. "flat" names no identity, so the service
    makes a new identity for every crop. A layout that does not fit the folders is refused, and
    nothing is sent.
    """
    found = find_crops(paths, layout)
    told: dict[str, Any] = {"identity_id": identity_id, "camera_id": camera_id}
    told |= {"captured_at": captured_at, "track_id": track_id}
    told = {name: value for name, value in told.items() if value is not None}
    with errors_as_sentences():
        if look and identity_id is None:
            check_layout(found, paths, layout)
    crops = [replace(crop, **told) for crop in found.crops]
    print_line(err, found.summary())
    tally = _Tally()
    tally.add(BatchResult(failures=found.failures))
    num_all = len(crops) + len(found.failures)
    started_s = time.monotonic()
    try:
        with errors_as_sentences(), Client(url) as client, progress_bar() as on_progress:
            for result in enroll_in_batches(
                client, crops, batch_size=batch, concurrency=concurrency, on_duplicate=on_duplicate
            ):
                tally.add(result)
                on_progress(tally.num_done, num_all)
    finally:
        tally.num_not_tried = num_all - tally.num_done
        tally.seconds = time.monotonic() - started_s
        if as_json:
            print_json(asdict(tally))
        else:
            print_line(out, tally.summary())
    raise typer.Exit(1 if tally.num_failed or not num_all else 0)
