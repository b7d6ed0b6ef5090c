"""Train a network, judge it, and put it in service if asked to.

Usage: ``python training/train.py --recipe NAME --data DIR --output DIR``, or ``python -m training.train``;
on several GPUs of one machine ``torchrun --nproc-per-node N training/train.py ...``.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from model.checkpoint import load_checkpoint, save_checkpoint
from model.embedder import Embedder
from model.errors import ModelError
from model.preprocess import Preprocess
from training.data.datasets import DatasetError, ReidDataset
from training.data.readers import Data, read_dataset
from training.engine import compatibility, distributed
from training.engine.errors import TrainingError
from training.engine.evaluation import embed_test, judge, score_test_pairs
from training.engine.run_state import writing
from training.engine.trainer import STATE_FILE, Trainer
from training.evaluate import print_rows
from training.recipes.named import find_recipe, follow
from training.report import write_report
from training.weights.deployment import DeployError, deploy, download_active
from training.weights.foreign import EmbeddingsError
from training.weights.initial import InitialWeightsError, find_initial
from training.weights.teachers import EmbeddingsTeacher, Teacher, load_teacher_embeddings, open_teacher


def main(
    recipe: Annotated[str, typer.Option(help="Name in training/recipes/named.py, or a run's recipe.json.")],
    data: Data,
    output: Annotated[Path, typer.Option(help="Folder of this run.")],
    init: Annotated[
        str,
        typer.Option(help="Start from FILE, active (in service at --deploy), imagenet or none."),
    ] = "imagenet",
    resize_relations: Annotated[
        bool, typer.Option("--resize-relations", help="Let --init FILE be of another input size.")
    ] = False,
    teacher_embeddings: Annotated[Path | None, typer.Option(help="An .npz of training/embed.py.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --output.")] = False,
    teacher: Annotated[
        Path | None, typer.Option(help="A live teacher: checkpoint, .onnx or OpenVINO .xml.")
    ] = None,
    teacher_channels: Annotated[str, typer.Option(help="Channel order of a foreign teacher.")] = "bgr",
    teacher_mean: Annotated[float, typer.Option(help="Subtracted from 0-255 for a foreign teacher.")] = 0.0,
    teacher_scale: Annotated[float, typer.Option(help="Divided by, after the mean.")] = 1.0,
    compatible_with: Annotated[
        Path | None, typer.Option(help="A checkpoint with whose embeddings the new ones stay comparable.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read crops, beside each network.")] = 1,
    save_seconds: Annotated[float, typer.Option(min=0, help="Seconds between states; 0: every step.")] = 60.0,
    is_compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    deploy_to: Annotated[
        str | None, typer.Option("--deploy", help="URL of a service to register it with, and be judged by.")
    ] = None,
    is_activated: Annotated[
        bool, typer.Option("--activate", help="Put it in service there, and wait until it is.")
    ] = False,
    require_better: Annotated[
        bool, typer.Option("--require-better", help="Unless it is worse on the gallery's own people.")
    ] = False,
) -> None:
    """Train by a recipe; the result is OUTPUT/network.safetensors."""
    if teacher_channels not in ("bgr", "rgb") or (teacher and teacher_embeddings):
        raise SystemExit("train: --teacher-channels is bgr or rgb; give --teacher or --teacher-embeddings")
    if (is_activated and not deploy_to) or (require_better and not is_activated):
        raise SystemExit("train: --activate needs --deploy URL, and --require-better needs --activate")
    try:
        with distributed.joined(device) as own_device:
            dataset = read_dataset(data, needs=("train", "query", "gallery"))
            chosen = find_recipe(recipe)
            source = fetch_active(deploy_to, output) if init == "active" else init
            initial = find_initial(source, chosen.architecture, resizes=resize_relations)
            card = initial.checkpoint.card if initial and initial.checkpoint else None
            chosen = follow(chosen, card, [sample.pid for sample in dataset.train])
            found: Teacher | None = None
            if teacher_embeddings:
                found = EmbeddingsTeacher(load_teacher_embeddings(teacher_embeddings, dataset), own_device)
            elif teacher:
                found = open_teacher(
                    teacher,
                    Preprocess(chosen.height, chosen.width),
                    own_device,
                    mean=teacher_mean,
                    scale=teacher_scale,
                    is_bgr=teacher_channels == "bgr",
                )
            old = load_checkpoint(compatible_with) if compatible_with else None
            trainer = Trainer(
                chosen,
                dataset,
                output,
                initial=initial,
                teacher=found,
                compatible_with=old,
                device=own_device,
                num_workers=workers,
                save_every_s=save_seconds,
                is_compiled=is_compiled,
            )
            path = train_and_judge(trainer, dataset, resume=resume)
            if deploy_to and distributed.rank() == 0:
                deploy(path, deploy_to, is_activated=is_activated, require_better=require_better)
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


def fetch_active(url: str | None, output: Path) -> str:
    """Keep the network in service at ``url`` in a run's folder; a run that goes on starts from what it kept.

    Raises:
        DeployError: there is no URL, or as ``download_active``.
        TrainingError: the folder cannot be written.
    """
    if url is None:
        raise DeployError("--init active is the network in service: say where with --deploy URL")
    path = output / "active.safetensors"
    if distributed.rank() == 0 and not (output / STATE_FILE).exists():
        with writing(output):
            download_active(url, path)
    distributed.wait()
    return str(path)


def train_and_judge(trainer: Trainer, dataset: ReidDataset, *, resume: bool) -> Path:
    """Train to the end, judge the network as it ships, in fp16, and return the path of its file.

    Its card holds the metrics, and the report lies beside it. Trained with an old network it is measured
    across the two, and the card promises compatibility if that is worth it; if not, this says so.

    Raises:
        TrainingError: as ``Trainer.fit``, or the folder cannot be written.
        DatasetError: a crop to judge by cannot be read.
    """
    last = trainer.fit(resume=resume)
    distributed.wait()
    checkpoint = load_checkpoint(last)
    checkpoint.network.half().float()
    embeddings = embed_test(Embedder(checkpoint), dataset)
    old = trainer.compatible_with
    measured = compatibility.measure(old, embeddings, dataset) if old else None
    path = trainer.output / "network.safetensors"
    if distributed.rank() == 0:
        metrics = judge(embeddings, dataset)
        print_rows([metrics])
        scores = score_test_pairs(embeddings, dataset)
        verification = scores.verification() | {"data": f"{dataset.name}, its test split"}
        if measured:
            print(compatibility.describe(measured))
        promise = measured if measured and compatibility.is_promise(measured) else None
        card = replace(trainer.card(metrics, verification), compatible_with=promise)
        with writing(trainer.output):
            version = save_checkpoint(path, checkpoint.network, card, half=True)
            report = write_report(trainer.output, load_checkpoint(path), dataset, embeddings, metrics)
        print(f"network {version} in {path}, report in {report}")
    return path


if __name__ == "__main__":
    typer.run(main)
