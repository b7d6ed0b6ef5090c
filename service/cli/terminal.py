"""Output of the `reid` program: lines, tables and progress bars."""

import json
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from service.client import Answer, FailedCrop, ModelsAnswer, SearchAnswer, VerifyAnswer, WarnedCrop

SECONDS_BETWEEN_LINES = 5.0

TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that turn the direction of a text. One in a name could make a line look different."""

CALIBRATIONS = {
    "evaluation": "strangers expected by chance, counted on people of this gallery",
    "card": "strangers expected by chance, by the network's card",
    "none": "no decisions: the network is not calibrated for searches; evaluate it with reid models evaluate",
}
"""What the decisions of a search go by."""

OnProgress = Callable[[int, int], None]
"""Shows progress; called with how many items or crops are done, and how many there are."""

out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


def replace_unprintable() -> None:
    """Print "?" for characters that the terminal lacks, such as those of Persian names in ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """Show progress on stderr: a bar on a terminal, and a line every few seconds elsewhere."""
    if not err.is_terminal:
        yield _plain_progress()
        return
    columns = (
        BarColumn(None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("", total=None, rate="")
        started_s = time.monotonic()

        def on_progress(done: int, total: int) -> None:
            rate = f"{done / (time.monotonic() - started_s):.1f}/s"
            bar.update(task, completed=done, total=total, rate=rate)

        yield on_progress


def _plain_progress() -> OnProgress:
    started_s = printed_s = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal printed_s
        now_s = time.monotonic()
        if now_s - printed_s >= SECONDS_BETWEEN_LINES:
            printed_s = now_s
            rate = done / (now_s - started_s)
            left = f", {(total - done) / rate:.0f} s left" if rate else ""
            print_line(err, f"{done} of {total}, {rate:.1f} a second{left}")

    return on_progress


def print_line(console: Console, line: str) -> None:
    """Print one line without wrapping, and `?` for whatever `_shown` replaces."""
    console.print(_shown(line), soft_wrap=True)


def _shown(text: str) -> str:
    """Replace bytes of file names that are not UTF-8, and characters that turn the direction of a text.

    >>> _shown("anna" + chr(0x202E) + "gpj.exe")
    'anna?gpj.exe'
    """
    return TURNS.sub("?", text.encode(errors="replace").decode())


class _ShownTable(Table):
    """A table whose cells are shown as `print_line` shows a line."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(_shown(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def new_table(*columns: str) -> Table:
    """Return a table that shows every value in full, over several lines where the terminal is narrow."""
    table = _ShownTable()
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _one_line(path: Path) -> str:
    """Return a path for a message, without breaks of lines in the names of its folders.

    >>> _one_line(Path("anna" + chr(10) + "smith") / "1.jpg")
    'anna?smith/1.jpg'
    """
    return "".join("?" if unicodedata.category(one) == "Cc" else one for one in str(path))


def print_json(values: Any) -> None:
    """Print values, such as answers of the service, as JSON.

    Letters beyond ASCII are escaped, so that no terminal loses one.
    """
    typer.echo(json.dumps(values, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Answer):
        return value.model_dump(mode="json", exclude_unset=True)
    return shown_time(value) if isinstance(value, datetime) else vars(value)


def shown_time(moment: datetime | None) -> str:
    """Return a time as the API writes it, or nothing if it is unknown.

    >>> shown_time(datetime(2026, 3, 1, 8, 15, tzinfo=UTC)), shown_time(None)
    ('2026-03-01T08:15:00Z', '')
    """
    return "" if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def print_failures(failures: Iterable[FailedCrop]) -> None:
    """Print a line on stderr for each crop that could not be enrolled or exported."""
    for failure in failures:
        print_line(err, f"failed: {_one_line(failure.path)}: {failure.reason}")


def print_warnings(warnings: Iterable[WarnedCrop]) -> None:
    """Print a line for each crop that was enrolled and is doubtful."""
    for warning in warnings:
        print_line(err, f"warning: {_one_line(warning.path)}: {warning.detail}")


def warning_count(num: int) -> str:
    """Return the part of a summary that counts warnings, or nothing if there are none.

    >>> warning_count(2), warning_count(0)
    (', 2 warnings', '')
    """
    return f", {num} warning{'s' if num > 1 else ''}" if num else ""


def print_existing(existing: Iterable[tuple[Path, str]]) -> None:
    """Print a line for each crop that was in the gallery already, and as whom."""
    for path, identity_id in existing:
        print_line(err, f"there already as {identity_id}: {_one_line(path)}")


def print_more(num: int) -> None:
    """Say that there are `num` further lines that are not printed, if there are any."""
    if num > 0:
        print_line(err, f"and {num} others")


def print_matches(answer: SearchAnswer) -> None:
    """Print the answer of a search as a table; the camera and time of a match are those of its best item.

    The column `strangers` has how many other people of those searched would score as high by chance.
    """
    if not answer.matches:
        print_line(out, f"no match among {answer.num_searched} searched (model {answer.model_version})")
        return
    table = new_table("rank", "identity", "decision", "strangers", "score", "camera", "time", "items")
    for match in answer.matches:
        best = match.items[0]
        seen = (best.camera_id or "", shown_time(best.captured_at))
        table.add_row(
            str(match.rank),
            match.identity_id,
            match.decision or "",
            _shown_strangers(match.expected_strangers),
            f"{match.score:.4f}",
            *seen,
            str(len(match.items)),
        )
    out.print(table)
    among = f"{answer.num_searched} items of {answer.num_identities} people"
    print_line(out, f"{among} searched in {answer.took_ms:.1f} ms, model {answer.model_version}")
    print_line(out, CALIBRATIONS[answer.calibration.source])


def _shown_strangers(expected: float | None) -> str:
    """Return a number of expected strangers for a table.

    >>> _shown_strangers(0.04312), _shown_strangers(0.0000181), _shown_strangers(None)
    ('0.043', '<0.001', '')
    """
    if expected is None:
        return ""
    return "<0.001" if expected < 0.001 else f"{expected:.2g}"


def print_verification(answer: VerifyAnswer) -> None:
    """Print the answer of a verification as one line."""
    decision = answer.decision or "no decision, the model version has no thresholds"
    chance = answer.probability_even_prior
    likely = "" if chance is None else f", probability {chance:.4f} at even odds"
    print_line(out, f"{decision}: score {answer.score:.4f}{likely}, model {answer.model_version}")


def print_evaluation(result: dict[str, Any]) -> None:
    """Print the result of an evaluation: a row for each version, and the differences with their intervals."""
    rates = [row["fmr"] for row in result["versions"][result["model_version"]]["thresholds"]]
    table = new_table("version", "rank-1", "rank-5", "mAP", "mINP", *(f"hits at {rate:g}" for rate in rates))
    for version, found in result["versions"].items():
        metrics = [f"{found[name]:.2f}" for name in ("rank1", "rank5", "mAP", "mINP")]
        hits = [f"{100 * row['hit_rate']:.1f}" for row in found["thresholds"]]
        is_active = " (active)" if version == result["active_version"] else ""
        table.add_row(version + is_active, *metrics, *hits)
    out.print(table)
    print_line(out, f"{result['num_queries']} queries among {result['num_items']} labelled items")
    counted = result["versions"][result["model_version"]].get("strangers")
    people = f"{counted['num_identities']} people" if counted else "no people, for there are too few"
    print_line(out, f"strangers of searches were counted on {people}")
    for name, gain in result["difference"].items():
        interval = f"95 % interval {gain['low']:+.2f} to {gain['high']:+.2f}"
        print_line(out, f"{name}: {gain['value']:+.2f}, {interval}")


def print_models(answer: ModelsAnswer) -> None:
    """Print the model versions as a table."""
    table = new_table("version", "state", "architecture", "size", "items", "coverage", "since")
    for version in answer.models:
        sizes = (
            str(version.embedding_size),
            str(version.num_embedded),
            f"{100 * version.coverage:.0f} %",
        )
        table.add_row(
            version.version, version.state, version.architecture, *sizes, f"{version.created_at:%Y-%m-%d}"
        )
    out.print(table)
