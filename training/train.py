"""Train a network, judge it, and put it in service if asked to.

Usage: ``python training/train.py --recipe NAME --data DIR --output DIR``, or ``python -m training.train``.
"""

from pathlib import Path
from typing import Annotated

import typer

from model.checkpoint import load_checkpoint, save_checkpoint
from model.embedder import Embedder
from model.errors import ModelError
from training.datasets import DatasetError, ReidDataset, read_market1501
from training.deploy import DeployError, deploy
from training.embed import EmbeddingsError, load_teacher_embeddings
from training.evaluate import embed_test, judge, print_metrics
from training.initial import InitialWeightsError, find_initial
from training.recipes import find_recipe
from training.report import write_report
from training.trainer import Trainer, TrainingError


def main(
    recipe: Annotated[str, typer.Option(help="Name in training/recipes.py, or the recipe.json of a run.")],
    data: Annotated[Path, typer.Option(help="Folder of Market-1501.")],
    output: Annotated[Path, typer.Option(help="Folder of this run.")],
    init: Annotated[str, typer.Option(help="Weights to start from: FILE, imagenet or none.")] = "imagenet",
    teacher_embeddings: Annotated[Path | None, typer.Option(help="An .npz of training/embed.py.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --output.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    deploy_to: Annotated[
        str | None, typer.Option("--deploy", help="URL of a service to swap it into.")
    ] = None,
) -> None:
    """Train by a recipe; the result is OUTPUT/network.safetensors."""
    try:
        dataset = read_market1501(data)
        chosen = find_recipe(recipe)
        initial = find_initial(init, chosen.architecture)
        teacher = load_teacher_embeddings(teacher_embeddings, dataset) if teacher_embeddings else None
        trainer = Trainer(chosen, dataset, output, initial=initial, teacher_embeddings=teacher, device=device)
        path = _judge(trainer, trainer.fit(resume=resume), dataset)
        if deploy_to:
            deploy(path, deploy_to)
    except (
        DatasetError,
        DeployError,
        EmbeddingsError,
        InitialWeightsError,
        ModelError,
        TrainingError,
        ValueError,
    ) as error:
        raise SystemExit(f"train: {error}") from error


def _judge(trainer: Trainer, last: Path, dataset: ReidDataset) -> Path:
    checkpoint = load_checkpoint(last)
    embeddings = embed_test(Embedder(checkpoint), dataset)
    metrics = judge(embeddings, dataset)
    print_metrics(metrics)
    path = trainer.output / "network.safetensors"
    version = save_checkpoint(path, checkpoint.network, trainer.card(metrics), half=True)
    report = write_report(trainer.output, load_checkpoint(path), dataset, embeddings, metrics)
    print(f"network {version} in {path}, report in {report}")
    return path


if __name__ == "__main__":
    typer.run(main)
