"""Finish a run: evaluate its network, and write network.safetensors and the report."""

from dataclasses import replace
from pathlib import Path

from model.checkpoint import load_checkpoint, save_checkpoint
from model.embedder import Embedder
from training.data.datasets import ReidDataset
from training.engine import compatibility, distributed
from training.engine.ablation import Row
from training.engine.evaluation import embed_test, evaluate_splits, verify_test
from training.engine.run_state import explain_write_errors
from training.engine.trainer import Trainer
from training.reports.evaluation_table import print_rows
from training.reports.page import write_report


def finish_run(trainer: Trainer, last: str | Path, dataset: ReidDataset) -> Path:
    """Evaluate the network of a trained run, and write network.safetensors in fp16 and the report.

    The metrics are those of the weights rounded to fp16, and stand in the card. A network that was trained to
    be compatible with an old one is also evaluated across the two; the card declares compatibility if the
    networks are compatible. In any case the result is printed.

    Args:
        trainer: of the run.
        last: the file that `Trainer.fit` returned.
        dataset: the data set to evaluate on.

    Returns:
        The path of network.safetensors.

    Raises:
        TrainingError: the folder cannot be written.
        DatasetError: a query or gallery crop cannot be read.
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
        verification = verify_test(embeddings, dataset)
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
    """Train a row of an ablation from its saved state, evaluate the row and save its metrics.

    Raises:
        DatasetError: a crop cannot be read.
        TrainingError: as `Trainer.fit` raises it, or the folder cannot be written.
    """
    row.save()
    path = finish_run(trainer, trainer.fit(resume=True), dataset)
    if distributed.rank() == 0:
        row.metrics = load_checkpoint(path).card.metrics
        row.save()
