"""Metrics of checkpoints on data sets as tables on the terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from training.engine.evaluation import Pairs

Row = Mapping[str, str | float]
"""What was judged, and by what, in words; its metrics in percent."""


def print_rows(rows: Sequence[Row]) -> None:
    """Print the rows as a table on the terminal; a small gallery's row has no rank5 or rank10."""
    table, longest = Table(padding=0, show_lines=True), max(rows, key=len)
    for name, value in longest.items():
        heading = name.replace("_", " ")
        width = 0 if isinstance(value, str) else max(6, *map(len, heading.split()))
        table.add_column(heading, overflow="fold", min_width=width)
    for row in rows:
        table.add_row(*(_cell(row.get(name, "")) for name in longest))
    Console(markup=False, emoji=False).print(table)  # names of files stay as they are


def print_evaluation(rows: Sequence[Row], pairs: Sequence[Pairs]) -> None:
    """Print the rows of evaluate.py as a table, and the pairs of each row if there are any."""
    print_rows([_in_two_columns(row) for row in rows])
    for judged_row, more in zip(rows, pairs, strict=False):
        print(f"pairs of {judged_row['tested_on']} by {judged_row['checkpoint']}, not re-ranked:")
        print_pairs(more)


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
    """Put the words of a row into two columns, so that the table fits 80 characters."""
    metrics = {name: value for name, value in row.items() if isinstance(value, float)}
    gallery = f"\ngallery by {row['gallery_checkpoint']}" if "gallery_checkpoint" in row else ""
    words = {
        "trained on": f"{row['trained_on']}\n{row['checkpoint']}",
        "tested on": f"{row['tested_on']}\n{row['queries']}{gallery}",
    }
    return {**words, **metrics}
