"""Evaluate checkpoints by the protocols of data sets: each --checkpoint on each --data.

Usage: ``python training/evaluate.py --checkpoint FILE --data DIR``, with ``--multi-query``, ``--flip``,
``--rerank``, ``--pairs`` and ``--json`` as options.
"""

import json
from dataclasses import replace

import typer

from model.checkpoint import load_checkpoint
from model.embedder import Embedder
from training.data.datasets import ReidDataset
from training.data.readers import read_dataset, read_query_boxes
from training.engine.evaluation import Pairs, embed_test, evaluate_pairs, evaluate_splits, pool_queries
from training.options.command import command, exit_on_error
from training.options.evaluation import EvaluateOptions
from training.reports.evaluation_table import Row, print_evaluation


def evaluate(options: EvaluateOptions) -> None:
    """Print rank-1, rank-5, rank-10, mAP (by steps and by trapezoids) and mINP in percent.

    Each row names the data set that the network was trained on and the one it was tested on. With
    --multi-query, the images of a query come from the gt_bbox folder of Market-1501, as published; without
    that folder, from the query split. With --gallery-checkpoint, two versions are compared across.
    """
    rows: list[Row] = []
    pairs: list[Pairs] = []
    device, precision, gallery = options.device, options.precision, options.gallery_checkpoint
    with exit_on_error("evaluate", ValueError):
        networks = [load_checkpoint(path) for path in options.checkpoint]
        embedders = [Embedder(network, device, precision) for network in networks]
        others = Embedder(load_checkpoint(gallery), device, precision) if gallery else None
        datasets = [_read_test(source, is_multi_query=options.multi_query) for source in options.data]
        for path, network, embedder in zip(options.checkpoint, networks, embedders, strict=True):
            for dataset, queries in datasets:
                splits = embed_test(embedder, dataset, gallery_embedder=others, with_flip=options.flip)
                tested = pool_queries(splits, dataset) if options.multi_query else (splits, dataset)
                row = {
                    "checkpoint": str(path),
                    "trained_on": network.card.dataset or "not said",
                    "tested_on": dataset.name,
                    "queries": queries,
                    **({"gallery_checkpoint": str(gallery)} if gallery else {}),
                }
                rows.append({**row, **evaluate_splits(*tested, is_reranked=options.rerank)})
                if options.with_pairs:
                    pairs.append(evaluate_pairs(*tested))
    if options.as_json:
        answers = [{**row, **more} for row, more in zip(rows, pairs or [{}] * len(rows), strict=True)]
        print(json.dumps(answers if len(answers) > 1 else answers[0]))
    else:
        print_evaluation(rows, pairs)


def _read_test(source: str, *, is_multi_query: bool) -> tuple[ReidDataset, str]:
    """Return a data set with the queries to embed, and a name of the kind of query for the table."""
    dataset = read_dataset([source], needs=("query", "gallery"))
    if not is_multi_query:
        return dataset, "single"
    if boxes := read_query_boxes(dataset):
        return replace(dataset, query=boxes), "multi, of gt_bbox"
    return dataset, "multi, of the query split"


main = command(EvaluateOptions, evaluate)

if __name__ == "__main__":
    typer.run(main)
