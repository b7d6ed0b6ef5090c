"""The options of the commands that train: those of every run, of train.py and of ablate.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from typer import Option

from model.preprocess import Preprocess
from training.data.datasets import ReidDataset
from training.data.readers import Data
from training.engine import distributed
from training.engine.ablation import TABLES
from training.engine.run_state import writing
from training.engine.trainer import STATE_FILE
from training.recipes.recipe import Recipe
from training.weights.deployment import DeployError, download_active
from training.weights.initial import Initial, find_initial
from training.weights.teachers import EmbeddingsTeacher, Teacher, load_teacher_embeddings, open_teacher


@dataclass(frozen=True)
class RunOptions:
    """What train.py and ablate.py both take."""

    recipe: Annotated[str, Option(help="Name in training/recipes/named.py, or a run's recipe.json.")]
    data: Data
    output: Annotated[Path, Option(help="Folder of this run; ablate.py makes one in it for each row.")]
    init: Annotated[
        str,
        Option(help="Start from FILE, imagenet or none; train.py also from active (in service at --deploy)."),
    ] = "imagenet"
    resize_relations: Annotated[
        bool, Option("--resize-relations", help="Let --init FILE be of another input size.")
    ] = False
    teacher_embeddings: Annotated[Path | None, Option(help="An .npz of training/embed.py.")] = None
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto"
    workers: Annotated[int, Option(min=0, help="Processes that read crops, beside each network.")] = 1
    save_seconds: Annotated[float, Option(min=0, help="Seconds between states; 0: every step.")] = 60.0

    def find_initial(self, architecture: str) -> Initial | None:
        """Return the weights to start from, or none; raises as ``weights.initial.find_initial``."""
        return find_initial(self.init, architecture, resizes=self.resize_relations)

    def find_teacher(self, recipe: Recipe, dataset: ReidDataset, device: torch.device) -> Teacher | None:  # noqa: ARG002
        """Return the teacher of --teacher-embeddings, or none; raises as ``load_teacher_embeddings``."""
        if not self.teacher_embeddings:
            return None
        return EmbeddingsTeacher(load_teacher_embeddings(self.teacher_embeddings, dataset), device)


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """What train.py takes."""

    resume: Annotated[bool, Option(help="Go on with the run in --output.")] = False
    teacher: Annotated[Path | None, Option(help="A live teacher: checkpoint, .onnx or OpenVINO .xml.")] = None
    teacher_channels: Annotated[str, Option(help="Channel order of a foreign teacher.")] = "bgr"
    teacher_mean: Annotated[float, Option(help="Subtracted from 0-255 for a foreign teacher.")] = 0.0
    teacher_scale: Annotated[float, Option(help="Divided by, after the mean.")] = 1.0
    compatible_with: Annotated[
        Path | None, Option(help="A checkpoint with whose embeddings the new ones stay comparable.")
    ] = None
    is_compiled: Annotated[bool, Option("--compile", help="Use torch.compile.")] = False
    deploy_to: Annotated[
        str | None, Option("--deploy", help="URL of a service to register it with, and be judged by.")
    ] = None
    is_activated: Annotated[
        bool, Option("--activate", help="Put it in service there, and wait until it is.")
    ] = False
    require_better: Annotated[
        bool, Option("--require-better", help="Unless it is worse on the gallery's own people.")
    ] = False

    def __post_init__(self) -> None:
        """End the process if options contradict each other."""
        if self.teacher_channels not in ("bgr", "rgb") or (self.teacher and self.teacher_embeddings):
            raise SystemExit(
                "train: --teacher-channels is bgr or rgb; give --teacher or --teacher-embeddings"
            )
        if (self.is_activated and not self.deploy_to) or (self.require_better and not self.is_activated):
            raise SystemExit("train: --activate needs --deploy URL, and --require-better needs --activate")

    def find_initial(self, architecture: str) -> Initial | None:
        """Return the weights to start from, or none; ``active`` is downloaded into --output first."""
        if self.init != "active":
            return super().find_initial(architecture)
        path = fetch_active(self.deploy_to, self.output)
        return find_initial(str(path), architecture, resizes=self.resize_relations)

    def find_teacher(self, recipe: Recipe, dataset: ReidDataset, device: torch.device) -> Teacher | None:
        """Return the teacher of --teacher or --teacher-embeddings, or none."""
        if not self.teacher:
            return super().find_teacher(recipe, dataset, device)
        return open_teacher(
            self.teacher,
            Preprocess(recipe.height, recipe.width),
            device,
            mean=self.teacher_mean,
            scale=self.teacher_scale,
            is_bgr=self.teacher_channels == "bgr",
        )


@dataclass(frozen=True)
class AblateOptions(RunOptions):
    """What ablate.py takes."""

    table: Annotated[str | None, Option(help=f"{', '.join(TABLES)} or all.")] = None
    architecture: Annotated[list[str] | None, Option(help="One more row; may repeat.")] = None


def fetch_active(url: str | None, output: str | Path) -> Path:
    """Keep the network in service at ``url`` in a run's folder; a run that goes on starts from what it kept.

    Raises:
        DeployError: there is no URL, or as ``download_active``.
        TrainingError: the folder cannot be written.
    """
    if url is None:
        raise DeployError("--init active is the network in service: say where with --deploy URL")
    output = Path(output)
    path = output / "active.safetensors"
    if distributed.rank() == 0 and not (output / STATE_FILE).exists():
        with writing(output):
            download_active(url, path)
    distributed.wait()
    return path
