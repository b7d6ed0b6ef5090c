"""Judge a checkpoint by the protocol of its data set: single query, no re-ranking, step-wise AP.

Usage: ``python training/evaluate.py --checkpoint FILE --data DIR [--json]``.
"""

import json
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from model.checkpoint import load_checkpoint
from model.embedder import Embedder
from model.errors import ModelError
from training.datasets import DatasetError, ReidDataset, Sample
from training.embed import Floats, embed_samples
from training.metrics import Ints, evaluate_distmat
from training.readers import Data, read_dataset


class EmbeddedSplits(NamedTuple):
    """L2-normalised embeddings of a data set's query and gallery, in their order: float32 (Q, D), (G, D)."""

    query: Floats
    gallery: Floats


def embed_test(embedder: Embedder, dataset: ReidDataset) -> EmbeddedSplits:
    """Embed query and gallery."""
    return EmbeddedSplits(
        embed_samples(dataset.query, embedder.embed, "query"),
        embed_samples(dataset.gallery, embedder.embed, "gallery"),
    )


def evaluate(embedder: Embedder, dataset: ReidDataset) -> dict[str, float]:
    """Return the metrics of query against gallery by cosine distance, in percent (see Metrics.percent)."""
    return judge(embed_test(embedder, dataset), dataset)


def judge(embeddings: EmbeddedSplits, dataset: ReidDataset) -> dict[str, float]:
    """Return the metrics of embeddings, in percent, as ``evaluate`` does."""
    queries_QD, gallery_GD = embeddings
    q_pids, q_camids = _labels(dataset.query)
    g_pids, g_camids = _labels(dataset.gallery)
    metrics = evaluate_distmat(1 - queries_QD @ gallery_GD.T, q_pids, g_pids, q_camids, g_camids)
    return {name: round(value, 2) for name, value in metrics.percent().items()}


def _labels(samples: tuple[Sample, ...]) -> tuple[Ints, Ints]:
    return np.array([sample.pid for sample in samples]), np.array([sample.camid for sample in samples])


def print_metrics(metrics: dict[str, float]) -> None:
    """Print the metrics as a table on the terminal."""
    table = Table(*metrics)
    table.add_row(*(f"{value:.2f}" for value in metrics.values()))
    Console().print(table)


def main(
    checkpoint: Annotated[Path, typer.Option(help="A .safetensors checkpoint.")],
    data: Data,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or torch-cpu.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object alone.")] = False,
) -> None:
    """Print rank-1, rank-5, rank-10, mAP (by steps and by trapezoids) and mINP in percent."""
    try:
        embedder = Embedder(load_checkpoint(checkpoint), device, precision)
        metrics = evaluate(embedder, read_dataset(data, needs=("query", "gallery")))
    except (DatasetError, ModelError, ValueError) as error:
        raise SystemExit(f"evaluate: {error}") from error
    if as_json:
        print(json.dumps(metrics))
    else:
        print_metrics(metrics)


if __name__ == "__main__":
    typer.run(main)
