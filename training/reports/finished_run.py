"""The end of a run: its network as it ships, with the metrics in its card and a report beside it."""

from dataclasses import replace
from pathlib import Path

from model.checkpoint import load_checkpoint, save_checkpoint
from model.embedder import Embedder
from training.data.datasets import ReidDataset
from training.engine import compatibility, distributed
from training.engine.ablation import Row
from training.engine.evaluation import embed_test, evaluate_splits, score_test_pairs
from training.engine.run_state import explain_write_errors
from training.engine.trainer import Trainer
from training.reports.evaluation_table import print_rows
from training.reports.page import write_report


def finish_run(trainer: Trainer, last: str | Path, dataset: ReidDataset) -> Path:
    """Judge the network of a trained run as it ships, in fp16, and return the path of its file.

    ``last`` is the file that ``Trainer.fit`` returned.

    Its card holds the metrics, and the report lies beside it. Trained with an old network it is measured
    across the two, and the card promises compatibility if that is worth it; if not, this says so.

    Raises:
        TrainingError: the folder cannot be written.
        DatasetError: a crop to judge by cannot be read.
    """
    distributed.wait()
    checkpoint = load_checkpoint(last)
    checkpoint.network.half().float()
    embeddings = embed_test(Embedder(checkpoint), dataset)
    old = trainer.compatible_with
    measured = compatibility.measure(old, embeddings, dataset) if old else None
    path = trainer.output / "network.safetensors"
    if distributed.rank() == 0:
        metrics = evaluate_splits(embeddings, dataset)
        print_rows([metrics])
        scores = score_test_pairs(embeddings, dataset)
        verification = scores.verification() | {"data": f"{dataset.name}, its test split"}
        if measured:
            print(compatibility.describe(measured))
        declared = measured if measured and compatibility.is_compatible(measured) else None
        card = replace(trainer.card(metrics, verification), compatible_with=declared)
        with explain_write_errors(trainer.output):
            version = save_checkpoint(path, checkpoint.network, card, half=True)
            report = write_report(trainer.output, load_checkpoint(path), dataset, embeddings, metrics)
        print(f"network {version} in {path}, report in {report}")
    return path


def train_row(row: Row, trainer: Trainer, dataset: ReidDataset) -> None:
    """Train and judge a row of an ablation from wherever it stopped; the first process keeps its metrics.

    Raises:
        DatasetError: a crop cannot be read.
        TrainingError: as ``Trainer.fit``.
    """
    row.save()
    path = finish_run(trainer, trainer.fit(resume=True), dataset)
    if distributed.rank() == 0:
        row.metrics = load_checkpoint(path).card.metrics
        row.save()
