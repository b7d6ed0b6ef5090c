"""Judge checkpoints by the protocols of data sets: every one of --checkpoint by every one of --data.

Usage: ``python training/evaluate.py --checkpoint FILE --data DIR``, with ``--multi-query``, ``--flip``,
``--rerank``, ``--pairs`` and ``--json`` where wanted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from model.checkpoint import load_checkpoint
from model.embedder import Embedder
from model.errors import ModelError
from training.data.datasets import DatasetError, ReidDataset
from training.data.readers import READERS, read_dataset, read_query_boxes
from training.engine.evaluation import Pairs, embed_test, judge, judge_pairs, pool_queries

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


def print_pairs(pairs: Pairs) -> None:
    """Print the thresholds and the quantiles as two tables."""
    for rows in pairs.values():
        table = Table(*(name.replace("_", " ") for name in rows[0]))
        for row in rows:
            table.add_row(*(f"{value:.4g}" for value in row.values()))
        Console().print(table)


def _cell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"


def main(
    checkpoint: Annotated[list[Path], typer.Option(help="A .safetensors checkpoint; may repeat.")],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="[KIND:]PATH",
            help=f"A data set to judge by; may repeat, each by itself. KIND is {', '.join(READERS)}.",
        ),
    ],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or torch-cpu.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    multi_query: Annotated[
        bool, typer.Option(help="Make one query of all images of an identity in a camera.")
    ] = False,
    gallery_checkpoint: Annotated[
        Path | None,
        typer.Option(help="Embed the gallery by this one, and by --checkpoint the queries alone."),
    ] = None,
    flip: Annotated[bool, typer.Option(help="Average each crop with its mirror image.")] = False,
    rerank: Annotated[bool, typer.Option(help="Re-rank by k-reciprocal neighbours.")] = False,
    with_pairs: Annotated[
        bool, typer.Option("--pairs", help="Say too what thresholds on the cosine let through and miss.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON alone: an object, or a list of several.")
    ] = False,
) -> None:
    """Print rank-1, rank-5, rank-10, mAP (by steps and by trapezoids) and mINP in percent.

    A row says what the network was trained on and what it was tested on. With --multi-query, the images are
    those of gt_bbox where Market-1501 has it, as published, and else those of the query split. With
    --gallery-checkpoint the metrics are those across two versions.
    """
    rows: list[Row] = []
    pairs: list[Pairs] = []
    try:
        networks = [load_checkpoint(path) for path in checkpoint]
        embedders = [Embedder(network, device, precision) for network in networks]
        others = (
            Embedder(load_checkpoint(gallery_checkpoint), device, precision) if gallery_checkpoint else None
        )
        datasets = [_read_test(source, is_multi_query=multi_query) for source in data]
        for path, network, embedder in zip(checkpoint, networks, embedders, strict=True):
            for dataset, queries in datasets:
                splits = embed_test(embedder, dataset, gallery_embedder=others, with_flip=flip)
                judged = splits, dataset
                if multi_query:
                    judged = pool_queries(*judged)
                row = {
                    "checkpoint": str(path),
                    "trained_on": network.card.dataset or "not said",
                    "tested_on": dataset.name,
                    "queries": queries,
                    **({"gallery_checkpoint": str(gallery_checkpoint)} if gallery_checkpoint else {}),
                }
                rows.append({**row, **judge(*judged, is_reranked=rerank)})
                if with_pairs:
                    pairs.append(judge_pairs(*judged))
    except (DatasetError, ModelError, ValueError) as error:
        raise SystemExit(f"evaluate: {error}") from error
    if as_json:
        answers = [{**row, **more} for row, more in zip(rows, pairs or [{}] * len(rows), strict=True)]
        print(json.dumps(answers if len(answers) > 1 else answers[0]))
        return
    print_rows([_in_two_columns(row) for row in rows])
    for judged_row, more in zip(rows, pairs, strict=False):
        print(f"pairs of {judged_row['tested_on']} by {judged_row['checkpoint']}, not re-ranked:")
        print_pairs(more)


def _in_two_columns(row: Row) -> Row:
    """Put the words of a row into two columns, so that the table fits 80 characters."""
    metrics = {name: value for name, value in row.items() if isinstance(value, float)}
    gallery = f"\ngallery by {row['gallery_checkpoint']}" if "gallery_checkpoint" in row else ""
    words = {
        "trained on": f"{row['trained_on']}\n{row['checkpoint']}",
        "tested on": f"{row['tested_on']}\n{row['queries']}{gallery}",
    }
    return {**words, **metrics}


def _read_test(source: str, *, is_multi_query: bool) -> tuple[ReidDataset, str]:
    """Return a data set whose query split is all that is embedded, and what its queries are, in words."""
    dataset = read_dataset([source], needs=("query", "gallery"))
    if not is_multi_query:
        return dataset, "single"
    if boxes := read_query_boxes(dataset):
        return replace(dataset, query=boxes), "multi, of gt_bbox"
    return dataset, "multi, of the query split"


if __name__ == "__main__":
    typer.run(main)
