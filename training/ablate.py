"""Train a table of ablations on any data, a row at a time, and print what each part of the network is worth.

Usage: ``python training/ablate.py --recipe NAME --data DIR --output DIR --table modules``. A row is the
recipe with another architecture, trained and judged as train.py does, in OUTPUT/ARCHITECTURE. The same
command goes on where it was stopped; rows that are finished stay as they are. OUTPUT/ablation.json and .md
hold the table.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from model.architectures import ARCHITECTURES, LAST_STAGE_ONLY, NUM_STAGES, build_network
from model.checkpoint import load_checkpoint
from model.errors import ModelError, UnknownArchitecture
from model.files import write_atomically
from training.data.datasets import SPLITS, DatasetError, ReidDataset
from training.data.readers import Data, read_dataset
from training.engine import distributed
from training.engine.errors import TrainingError
from training.engine.run_state import writing
from training.engine.trainer import STATE_FILE, Trainer
from training.recipes.named import find_recipe
from training.recipes.recipe import Recipe
from training.train import train_and_judge
from training.weights.foreign import EmbeddingsError
from training.weights.initial import InitialWeightsError, find_initial
from training.weights.teachers import EmbeddingsTeacher, load_teacher_embeddings

ROW_FILE = "row.json"
TABLES: dict[str, tuple[str, ...]] = {
    "modules": ("plain", "rga_s", "rga_c", "rga_sc", "rga_cs", "rga_parallel"),
    "relations": ("plain", "rga_sc_relations", "rga_sc_feature", "rga_sc"),
    "symmetry": ("plain", "rga_sc_symmetric", "rga_sc"),
    "stages": ("plain", *(f"rga_sc_stage{number}" for number in range(1, 5)), "rga_sc_all"),
}
"""The RGA paper's ablations (section 4.3), as what stands before a trunk's name; ``all`` has each once."""
_HEADER = ("architecture", "weights", "rank-1", "mAP", "rank-1 +-", "mAP +-")


@dataclass
class Row:
    """One network of a table; ``metrics`` are in percent, and empty until it is trained and judged.

    ``made_with`` is all that its figures follow from; ``num_weights`` leaves out the classifier.
    """

    recipe: Recipe
    folder: Path
    made_with: dict[str, Any]
    num_weights: int
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its architecture."""
        return self.recipe.architecture

    def save(self) -> None:
        """Write what it is made with, and its metrics if they are known."""
        with writing(self.folder):
            values = {"made_with": self.made_with, "metrics": self.metrics}
            write_atomically(self.folder / ROW_FILE, json.dumps(values, indent=2).encode())


def architectures_of(table: str, architecture: str) -> tuple[str, ...]:
    """Return a table's architectures on the trunk of one, the network without attention first.

    >>> architectures_of("symmetry", "rga_sc_resnet50")
    ('resnet50', 'rga_sc_symmetric_resnet50', 'rga_sc_resnet50')

    Raises:
        UnknownArchitecture: no network has that name.
        ValueError: there is no such table.
    """
    if architecture not in ARCHITECTURES:
        raise UnknownArchitecture(f"no architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}")
    if table not in TABLES and table != "all":
        raise ValueError(f"no table {table!r}; there are {', '.join(TABLES)}, all")
    trunk = next(trunk for trunk in NUM_STAGES if architecture.endswith(trunk))
    rows = TABLES[table] if table in TABLES else sum(TABLES.values(), ())
    names = dict.fromkeys(_name(row, trunk) for row in rows)
    return tuple(name for name in names if name in ARCHITECTURES)  # OSNet has three stages


def _name(row: str, trunk: str) -> str:
    """Return a row's architecture; where it is RGA-SC as the trunk has it anyway, by that one name."""
    if row == "plain":
        return "plain_tiny" if trunk == "tiny" else trunk
    own = f"rga_sc_stage{NUM_STAGES[trunk]}" if trunk in LAST_STAGE_ONLY else "rga_sc_all"
    return f"{'rga_sc' if row == own else row}_{trunk}"


def find_row(
    recipe: Recipe,
    dataset: ReidDataset,
    output: Path,
    init: str,
    teacher: Path | None,
    *,
    resizes: bool = False,
) -> Row:
    """Return the row of a recipe as far as it got in its folder, having seen that it can be trained.

    ``init`` and ``resizes`` are as ``find_initial`` has them.

    Raises:
        InitialWeightsError: what ``init`` names does not fit its network.
        ModelError: there is no such network.
        TrainingError: its folder holds a row that was made with something else, or a run that is no row.
        ValueError: the network cannot be built at the recipe's size.
    """
    num_weights = _count_weights(recipe, init, resizes=resizes)
    made_with = {
        "recipe": json.loads(recipe.to_json()),
        "init": _fingerprint(init),
        "teacher": _fingerprint(str(teacher or "none")),
        "data set": _fingerprint_of_data(dataset),
    }
    row = Row(recipe, output / recipe.architecture, made_with, num_weights)
    path = row.folder / ROW_FILE
    if path.exists():
        row.metrics = _read_metrics(path, made_with)
    elif (row.folder / STATE_FILE).exists():
        raise TrainingError(f"{row.folder} holds a run that is no row of a table: give another --output")
    return row


def _read_metrics(path: Path, made_with: dict[str, Any]) -> dict[str, float]:
    try:
        values: Any = json.loads(path.read_text())
        others = [name for name in made_with if values["made_with"][name] != made_with[name]]
        metrics = {name: float(value) for name, value in values["metrics"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise TrainingError(
            f"{path} cannot be read ({type(error).__name__}): remove its folder to train that row again"
        ) from error
    if others:
        raise TrainingError(
            f"{path.parent} holds a row made with another {others[0]}: see its {ROW_FILE}; go back to that, "
            "or give another --output"
        )
    return metrics


def _fingerprint(source: str) -> str:
    """Return the hash of a file, with that of the weights beside an OpenVINO graph, or a word as it is."""
    path = Path(source)
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    if not path.is_file():
        return source
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()


def _fingerprint_of_data(dataset: ReidDataset) -> str:
    rows = [
        f"{split} {dataset.relative_path(sample)} {sample.pid} {sample.camid} {sample.trackid}"
        for split in SPLITS
        for sample in dataset.split(split)
    ]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _count_weights(recipe: Recipe, init: str, *, resizes: bool) -> int:
    """Count the weights of a network but for its classifier, having seen that the initial ones fit it."""
    network = build_network(
        recipe.architecture,
        height=recipe.height,
        width=recipe.width,
        num_identities=2,
        pooling=recipe.pooling,
    )
    if initial := find_initial(init, recipe.architecture, resizes=resizes):
        initial.load_into(network)
    classifier = {id(weight) for weight in network.classifier.parameters()}
    return sum(weight.numel() for weight in network.parameters() if id(weight) not in classifier)


def train_row(row: Row, trainer: Trainer, dataset: ReidDataset) -> None:
    """Train and judge a row from wherever it stopped; the first process keeps its metrics.

    Raises:
        DatasetError: a crop cannot be read.
        TrainingError: as ``Trainer.fit``.
    """
    if distributed.rank() == 0:
        row.save()
    path = train_and_judge(trainer, dataset, resume=True)
    if distributed.rank() == 0:
        row.metrics = load_checkpoint(path).card.metrics
        row.save()


def write_table(rows: Sequence[Row], recipe: str, dataset: str, output: Path) -> None:
    """Write finished rows, each beside the first of them, as ablation.json and ablation.md.

    Raises:
        TrainingError: the folder cannot be written.
    """
    figures = [
        {
            "architecture": row.name,
            "num_weights": row.num_weights,
            "metrics": row.metrics,
            "difference": _difference(row, rows[0]),
        }
        for row in rows
    ]
    values = {"recipe": recipe, "dataset": dataset, "rows": figures}
    lines = [_HEADER, ("---",) * len(_HEADER), *(_cells(row, rows[0]) for row in rows)]
    with writing(output):
        write_atomically(output / "ablation.json", json.dumps(values, indent=2).encode())
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        write_atomically(output / "ablation.md", text.encode())


def print_table(rows: Sequence[Row]) -> None:
    """Print finished rows, each beside the first of them."""
    table = Table(*_HEADER)
    for row in rows:
        table.add_row(*_cells(row, rows[0]))
    Console().print(table)


def _cells(row: Row, first: Row) -> tuple[str, ...]:
    difference = _difference(row, first)
    return (
        row.name,
        f"{row.num_weights:,}",
        *(f"{row.metrics[name]:.2f}" for name in ("rank1", "mAP")),
        *(f"{difference[name]:+.2f}" for name in ("rank1", "mAP")),
    )


def _difference(row: Row, first: Row) -> dict[str, float]:
    return {name: round(value - first.metrics[name], 2) for name, value in row.metrics.items()}


def main(
    recipe: Annotated[str, typer.Option(help="Name in training/recipes/named.py, or a recipe.json.")],
    data: Data,
    output: Annotated[Path, typer.Option(help="Folder of the table: a run in a folder of its own each row.")],
    table: Annotated[str | None, typer.Option(help=f"{', '.join(TABLES)} or all.")] = None,
    architecture: Annotated[list[str] | None, typer.Option(help="One more row; may repeat.")] = None,
    init: Annotated[str, typer.Option(help="Weights to start from: FILE, imagenet or none.")] = "imagenet",
    resize_relations: Annotated[
        bool, typer.Option("--resize-relations", help="Let --init FILE be of another input size.")
    ] = False,
    teacher_embeddings: Annotated[Path | None, typer.Option(help="An .npz of training/embed.py.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read crops, beside each network.")] = 1,
    save_seconds: Annotated[float, typer.Option(min=0, help="Seconds between states; 0: every step.")] = 60.0,
) -> None:
    """Train and judge the rows that are not finished, and print the table; its first row is the baseline.

    A recipe with ``only_attention`` leaves nothing of a network without attention to train but the
    classifier: that row judges the weights that all rows start from.
    """
    place = "ablate"
    if not (table or architecture):
        raise SystemExit(f"{place}: name a --table ({', '.join(TABLES)}, all) or rows by --architecture")
    try:
        with distributed.joined(device) as own_device:
            dataset = read_dataset(data, needs=("train", "query", "gallery"))
            chosen = find_recipe(recipe)
            teacher = None
            if teacher_embeddings:
                teacher = EmbeddingsTeacher(load_teacher_embeddings(teacher_embeddings, dataset), own_device)
            names = architectures_of(table, chosen.architecture) if table else ()
            rows: list[Row] = []
            for name in dict.fromkeys([*names, *(architecture or ())]):
                place = f"ablate: row {name}"
                of_row = replace(chosen, name=f"{chosen.name}/{name}", architecture=name)
                rows.append(
                    find_row(of_row, dataset, output, init, teacher_embeddings, resizes=resize_relations)
                )
            distributed.wait()  # until every process has read what the first will write
            for number, row in enumerate(rows, start=1):
                place = f"ablate: row {row.name}"
                if not row.metrics:
                    trainer = Trainer(
                        row.recipe,
                        dataset,
                        row.folder,
                        initial=find_initial(init, row.name, resizes=resize_relations),
                        teacher=teacher,
                        device=own_device,
                        num_workers=workers,
                        save_every_s=save_seconds,
                    )
                    train_row(row, trainer, dataset)
                if distributed.rank() == 0:
                    write_table(rows[:number], chosen.name, dataset.name, output)
            if distributed.rank() == 0:
                print_table(rows)
    except (
        DatasetError,
        EmbeddingsError,
        InitialWeightsError,
        ModelError,
        TrainingError,
        ValueError,
    ) as error:
        raise SystemExit(f"{place}: {error}") from error


if __name__ == "__main__":
    typer.run(main)
