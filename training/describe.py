"""Describe a data set before training: counts, sizes, crops both in train and in test, a contact sheet.

Usage: ``python training/describe.py --data DIR [--sheet FILE.png | --no-sheet] [--json]``. Every image is
decoded. If some cannot be decoded, the command names them and ends with status 1.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from training.data.readers import Data, read_dataset
from training.options.command import command, exit_on_error
from training.reports.contact_sheet import contact_sheet
from training.reports.description import describe_dataset, print_report


@dataclass(frozen=True)
class DescribeOptions:
    """Options of describe.py."""

    data: Data
    sheet: Annotated[Path, Option(help="The contact sheet to write (PNG).")] = Path("contact-sheet.png")
    with_sheet: Annotated[
        bool, Option("--with-sheet/--no-sheet", help="Whether to write the contact sheet.")
    ] = True
    as_json: Annotated[bool, Option("--json", help="Print only one JSON object.")] = False


def describe(options: DescribeOptions) -> None:
    """Count identities, images, cameras and sizes; find crops in train and test; draw a contact sheet."""
    with exit_on_error("describe", OSError):
        dataset = read_dataset(options.data)
        report = describe_dataset(dataset)
        if options.with_sheet:
            options.sheet.parent.mkdir(parents=True, exist_ok=True)
            contact_sheet(dataset).save(options.sheet, "PNG")
    if options.as_json:
        print(json.dumps(asdict(report)))
    else:
        print_report(report)
    if options.with_sheet:
        typer.echo(f"contact sheet in {options.sheet}", err=True)
    for message in report.unreadable:
        typer.echo(message, err=True)
    if report.unreadable:
        raise SystemExit(f"describe: {len(report.unreadable):,} images cannot be read")


main = command(DescribeOptions, describe)

if __name__ == "__main__":
    typer.run(main)
