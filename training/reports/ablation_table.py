"""The table of an ablation, with differences from the first row: on the terminal, as JSON and Markdown."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from model.files import write_atomically
from training.engine.ablation import Row
from training.engine.run_state import explain_write_errors

_HEADER = ("architecture", "weights", "rank-1", "mAP", "rank-1 +-", "mAP +-")


def write_table(rows: Sequence[Row], recipe: str, dataset: str, output: str | Path) -> None:
    """Write finished rows, with the differences from the first row, as ablation.json and ablation.md.

    Raises:
        TrainingError: the folder cannot be written.
    """
    output = Path(output)
    figures = [
        {
            "architecture": row.name,
            "num_weights": row.num_weights,
            "metrics": row.metrics,
            "difference": _difference(row, rows[0]),
        }
        for row in rows
    ]
    values = {"recipe": recipe, "dataset": dataset, "rows": figures}
    lines = [_HEADER, ("---",) * len(_HEADER), *(_cells(row, rows[0]) for row in rows)]
    with explain_write_errors(output):
        write_atomically(output / "ablation.json", json.dumps(values, indent=2).encode())
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        write_atomically(output / "ablation.md", text.encode())


def print_table(rows: Sequence[Row]) -> None:
    """Print finished rows, with the differences from the first row."""
    table = Table(*_HEADER)
    for row in rows:
        table.add_row(*_cells(row, rows[0]))
    Console().print(table)


def _cells(row: Row, first: Row) -> tuple[str, ...]:
    difference = _difference(row, first)
    return (
        row.name,
        f"{row.num_weights:,}",
        *(f"{row.metrics[name]:.2f}" for name in ("rank1", "mAP")),
        *(f"{difference[name]:+.2f}" for name in ("rank1", "mAP")),
    )


def _difference(row: Row, first: Row) -> dict[str, float]:
    return {name: round(value - first.metrics[name], 2) for name, value in row.metrics.items()}
