"""Write the report of a finished run again: a page with metrics, curves, ranked lists and attention maps.

Usage: ``python training/report.py --run DIR --data DIR``, for a run that train.py finished.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from model.checkpoint import load_checkpoint
from model.embedder import Embedder
from training.data.readers import Data, read_dataset
from training.engine.evaluation import embed_test, evaluate_splits
from training.options.command import command, exit_on_error
from training.reports.page import write_report


@dataclass(frozen=True)
class ReportOptions:
    """Options of report.py."""

    run: Annotated[Path, Option(help="Folder of a run that train.py finished.")]
    data: Data


def report(options: ReportOptions) -> None:
    """Write the report of a finished run again."""
    with exit_on_error("report", OSError, ValueError):
        dataset = read_dataset(options.data, needs=("query", "gallery"))
        checkpoint = load_checkpoint(options.run / "network.safetensors")
        embeddings = embed_test(Embedder(checkpoint), dataset)
        path = write_report(
            options.run, checkpoint, dataset, embeddings, evaluate_splits(embeddings, dataset)
        )
    print(f"report in {path}")


main = command(ReportOptions, report)

if __name__ == "__main__":
    typer.run(main)
