"""Judge a checkpoint by the protocol of its data set: single query; with --flip or --rerank as those say.

Usage: ``python training/evaluate.py --checkpoint FILE --data DIR [--flip] [--rerank] [--json]``.
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
from training.metrics import Ints, evaluate_embeddings, evaluate_rows
from training.readers import Data, read_dataset
from training.reranking import rerank_embeddings


class EmbeddedSplits(NamedTuple):
    """L2-normalised embeddings of a data set's query and gallery, in their order: float32 (Q, D), (G, D)."""

    query: Floats
    gallery: Floats


def embed_test(embedder: Embedder, dataset: ReidDataset, *, with_flip: bool = False) -> EmbeddedSplits:
    """Embed query and gallery; ``with_flip`` averages each crop with its mirror image."""
    return EmbeddedSplits(
        embed_samples(dataset.query, embedder.embed, "query", with_flip=with_flip),
        embed_samples(dataset.gallery, embedder.embed, "gallery", with_flip=with_flip),
    )


def evaluate(embedder: Embedder, dataset: ReidDataset) -> dict[str, float]:
    """Return the metrics of query against gallery by cosine distance, in percent (see Metrics.percent)."""
    return judge(embed_test(embedder, dataset), dataset)


def judge(embeddings: EmbeddedSplits, dataset: ReidDataset, *, is_reranked: bool = False) -> dict[str, float]:
    """Return the metrics of embeddings, in percent, as ``evaluate`` does, or of their re-ranked distances."""
    q_pids, q_camids = _labels(dataset.query)
    g_pids, g_camids = _labels(dataset.gallery)
    labels = q_pids, g_pids, q_camids, g_camids
    if is_reranked:
        metrics = evaluate_rows(rerank_embeddings(*embeddings), *labels)
    else:
        metrics = evaluate_embeddings(*embeddings, *labels)
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
    flip: Annotated[bool, typer.Option(help="Average each crop with its mirror image.")] = False,
    rerank: Annotated[bool, typer.Option(help="Re-rank by k-reciprocal neighbours.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object alone.")] = False,
) -> None:
    """Print rank-1, rank-5, rank-10, mAP (by steps and by trapezoids) and mINP in percent."""
    try:
        embedder = Embedder(load_checkpoint(checkpoint), device, precision)
        dataset = read_dataset(data, needs=("query", "gallery"))
        metrics = judge(embed_test(embedder, dataset, with_flip=flip), dataset, is_reranked=rerank)
    except (DatasetError, ModelError, ValueError) as error:
        raise SystemExit(f"evaluate: {error}") from error
    if as_json:
        print(json.dumps(metrics))
    else:
        print_metrics(metrics)


if __name__ == "__main__":
    typer.run(main)
