"""Print the metrics of checkpoints on data sets as tables."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from training.engine.evaluation import Pairs

Row = Mapping[str, str | float]
"""Names of what was evaluated, as text, and metrics in percent, as numbers."""


def print_rows(rows: Sequence[Row]) -> None:
    """Print rows as a table. A metric that a row lacks, such as rank10 of a small gallery, is left blank."""
    table, longest = Table(padding=0, show_lines=True), max(rows, key=len)
    for name, value in longest.items():
        heading = name.replace("_", " ")
        width = 0 if isinstance(value, str) else max(6, *map(len, heading.split()))
        table.add_column(heading, overflow="fold", min_width=width)
    for row in rows:
        table.add_row(*(_cell(row.get(name, "")) for name in longest))
    Console(markup=False, emoji=False).print(table)  # file names are printed literally


def print_evaluation(rows: Sequence[Row], pairs: Sequence[Pairs]) -> None:
    """Print the rows of evaluate.py as a table, and the thresholds and quantiles of each row with pairs."""
    print_rows([_in_two_columns(row) for row in rows])
    for row, row_pairs in zip(rows, pairs, strict=False):
        print(f"pairs of {row['tested_on']} by {row['checkpoint']}, not re-ranked:")
        print_pairs(row_pairs)


def print_pairs(pairs: Pairs) -> None:
    """Print the thresholds and the quantiles as two tables."""
    for rows in pairs.values():
        table = Table(*(name.replace("_", " ") for name in rows[0]))
        for row in rows:
            table.add_row(*(f"{value:.4g}" for value in row.values()))
        Console().print(table)


def _cell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"


def _in_two_columns(row: Row) -> Row:
    """Put the texts of a row into two columns, so that the table fits into 80 characters."""
    metrics = {name: value for name, value in row.items() if isinstance(value, float)}
    gallery = f"\ngallery by {row['gallery_checkpoint']}" if "gallery_checkpoint" in row else ""
    words = {
        "trained on": f"{row['trained_on']}\n{row['checkpoint']}",
        "tested on": f"{row['tested_on']}\n{row['queries']}{gallery}",
    }
    return {**words, **metrics}
