"""Options of train.py and ablate.py, and the options that both share."""

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
from training.engine.run_state import explain_write_errors
from training.engine.trainer import STATE_FILE
from training.recipes.recipe import Recipe
from training.weights.deployment import DeployError, download_active
from training.weights.initial import Initial, find_initial
from training.weights.teachers import EmbeddingsTeacher, Teacher, load_teacher_embeddings, open_teacher


@dataclass(frozen=True)
class RunOptions:
    """Options that train.py and ablate.py share."""

    recipe: Annotated[str, Option(help="Name in training/recipes/named.py, or a run's recipe.json.")]
    data: Data
    output: Annotated[Path, Option(help="Folder of this run; ablate.py makes a folder in it for each row.")]
    init: Annotated[
        str,
        Option(help="Start from FILE, imagenet or none; train.py also from active, the network at --deploy."),
    ] = "imagenet"
    resize_relations: Annotated[
        bool, Option("--resize-relations", help="Accept an --init FILE of another input size.")
    ] = False
    teacher_embeddings: Annotated[Path | None, Option(help="A teacher's .npz, written by embed.py.")] = None
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto"
    workers: Annotated[
        int, Option(min=0, help="Processes that read crops, for each process that trains.")
    ] = 1
    save_seconds: Annotated[
        float, Option(min=0, help="Seconds between saved states; 0 saves after each step.")
    ] = 60.0

    def find_initial(self, architecture: str) -> Initial | None:
        """Return the weights to start from, or None; raises as `training.weights.initial.find_initial`."""
        return find_initial(self.init, architecture, resizes=self.resize_relations)

    def find_teacher(self, recipe: Recipe, dataset: ReidDataset, device: torch.device) -> Teacher | None:  # noqa: ARG002
        """Return the teacher of --teacher-embeddings, or None; raises as `load_teacher_embeddings`."""
        if not self.teacher_embeddings:
            return None
        return EmbeddingsTeacher(load_teacher_embeddings(self.teacher_embeddings, dataset), device)


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """Options of train.py."""

    resume: Annotated[bool, Option(help="Resume the run in --output.")] = False
    teacher: Annotated[Path | None, Option(help="A live teacher: checkpoint, .onnx or OpenVINO .xml.")] = None
    teacher_channels: Annotated[str, Option(help="Channel order of a foreign teacher.")] = "bgr"
    teacher_mean: Annotated[float, Option(help="Subtracted from pixels 0-255 for a foreign teacher.")] = 0.0
    teacher_scale: Annotated[float, Option(help="Divides the pixels after --teacher-mean.")] = 1.0
    compatible_with: Annotated[
        Path | None, Option(help="An old checkpoint; new embeddings stay comparable with its own.")
    ] = None
    is_compiled: Annotated[bool, Option("--compile", help="Use torch.compile.")] = False
    deploy_to: Annotated[
        str | None, Option("--deploy", help="URL of a service that registers and evaluates the network.")
    ] = None
    is_activated: Annotated[
        bool, Option("--activate", help="Put the network in service there, and wait for the swap.")
    ] = False
    require_better: Annotated[
        bool, Option("--require-better", help="Activate only if it is no worse on the people of the gallery.")
    ] = False

    def __post_init__(self) -> None:
        """End the process if two options contradict each other."""
        if self.teacher_channels not in ("bgr", "rgb") or (self.teacher and self.teacher_embeddings):
            raise SystemExit(
                "train: --teacher-channels is bgr or rgb; give --teacher or --teacher-embeddings"
            )
        if (self.is_activated and not self.deploy_to) or (self.require_better and not self.is_activated):
            raise SystemExit("train: --activate needs --deploy URL, and --require-better needs --activate")

    def find_initial(self, architecture: str) -> Initial | None:
        """Return the weights to start from, or None; for ``active``, download them into --output first."""
        if self.init != "active":
            return super().find_initial(architecture)
        path = fetch_active(self.deploy_to, self.output)
        return find_initial(str(path), architecture, resizes=self.resize_relations)

    def find_teacher(self, recipe: Recipe, dataset: ReidDataset, device: torch.device) -> Teacher | None:
        """Return the teacher of --teacher or --teacher-embeddings, or None."""
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
    """Options of ablate.py."""

    table: Annotated[str | None, Option(help=f"A table of the paper: {', '.join(TABLES)} or all.")] = None
    architecture: Annotated[list[str] | None, Option(help="A row of its own; may repeat.")] = None


def fetch_active(url: str | None, output: str | Path) -> Path:
    """Download the network in service at ``url`` into a run's folder; a resumed run keeps its first download.

    Returns:
        The file.

    Raises:
        DeployError: there is no URL, or as `download_active`.
        TrainingError: the folder cannot be written.
    """
    if url is None:
        raise DeployError("--init active is the network in service: say where with --deploy URL")
    output = Path(output)
    path = output / "active.safetensors"
    if distributed.rank() == 0 and not (output / STATE_FILE).exists():
        with explain_write_errors(output):
            download_active(url, path)
    distributed.wait()
    return path
