"""Rows of an ablation table: one recipe with several architectures, each trained in its own folder."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.architectures import ARCHITECTURES, LAST_STAGE_ONLY, NUM_STAGES, build_network, trunk_of
from model.errors import UnknownArchitecture
from model.files import write_atomically
from training.data.datasets import SPLITS, ReidDataset
from training.engine import distributed
from training.engine.errors import TrainingError
from training.engine.run_state import explain_write_errors
from training.engine.trainer import STATE_FILE
from training.recipes.recipe import Recipe, parse_recipe
from training.weights.initial import find_initial

ROW_FILE = "row.json"
TABLES: dict[str, tuple[str, ...]] = {
    "modules": ("plain", "rga_s", "rga_c", "rga_sc", "rga_cs", "rga_parallel"),
    "relations": ("plain", "rga_sc_relations", "rga_sc_feature", "rga_sc"),
    "symmetry": ("plain", "rga_sc_symmetric", "rga_sc"),
    "stages": ("plain", *(f"rga_sc_stage{number}" for number in range(1, 5)), "rga_sc_all"),
}
"""The RGA paper's ablations (section 4.3): architectures without the name of the trunk, by table."""


@dataclass
class Row:
    """One network of a table.

    Attributes:
        recipe: the recipe with the row's architecture.
        folder: of the row's run.
        made_with: everything that the metrics depend on; a row made with something else is not resumed.
        num_weights: weights of the network without its classifier.
        metrics: in percent; empty until the row is trained and evaluated.
    """

    recipe: Recipe
    folder: Path
    made_with: dict[str, Any]
    num_weights: int
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The architecture of the row."""
        return self.recipe.architecture

    def save(self) -> None:
        """Write ``made_with`` and ``metrics`` to row.json; the first process writes for all."""
        if distributed.rank() != 0:
            return
        with explain_write_errors(self.folder):
            values = {"made_with": self.made_with, "metrics": self.metrics}
            write_atomically(self.folder / ROW_FILE, json.dumps(values, indent=2).encode())


def architectures_of(table: str, architecture: str) -> tuple[str, ...]:
    """Return the architectures of a table on one trunk; the network without attention comes first.

    Args:
        table: a key of TABLES, or ``all`` for every table without repetitions.
        architecture: any architecture on the trunk.

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
    trunk = trunk_of(architecture)
    rows = TABLES[table] if table in TABLES else sum(TABLES.values(), ())
    names = dict.fromkeys(_name(row, trunk) for row in rows)
    return tuple(name for name in names if name in ARCHITECTURES)  # OSNet, for example, has no fourth stage


def _name(row: str, trunk: str) -> str:
    """Return the architecture of a row; the trunk's usual RGA-SC is always called rga_sc."""
    if row == "plain":
        return "plain_tiny" if trunk == "tiny" else trunk
    own = f"rga_sc_stage{NUM_STAGES[trunk]}" if trunk in LAST_STAGE_ONLY else "rga_sc_all"
    return f"{'rga_sc' if row == own else row}_{trunk}"


def find_row(
    recipe: Recipe,
    dataset: ReidDataset,
    output: str | Path,
    init: str,
    teacher: str | Path | None,
    *,
    resizes: bool = False,
) -> Row:
    """Check that a row can be trained, and return the row with the metrics of a finished run.

    Args:
        recipe: the recipe with the row's architecture.
        dataset: the data set to train and evaluate on.
        output: the folder of the table; the row's folder is in it.
        init: the initial weights, as for `find_initial`.
        teacher: the file of a teacher's embeddings, or None.
        resizes: as for `find_initial`.

    Raises:
        InitialWeightsError: the initial weights do not fit the network.
        ModelError: there is no such network.
        TrainingError: the folder holds a row made with something else, or a run that is not a row.
        ValueError: the network cannot be built at the recipe's size.
    """
    num_weights = _count_weights(recipe, init, resizes=resizes)
    made_with = {
        "recipe": json.loads(recipe.to_json()),
        "init": _fingerprint(init),
        "teacher": _fingerprint(str(teacher or "none")),
        "data set": _fingerprint_of_data(dataset),
    }
    row = Row(recipe, Path(output) / recipe.architecture, made_with, num_weights)
    path = row.folder / ROW_FILE
    if path.exists():
        row.metrics = _read_metrics(path, made_with)
    elif (row.folder / STATE_FILE).exists():
        raise TrainingError(f"{row.folder} holds a run that is not a row of a table: give another --output")
    return row


def _read_metrics(path: Path, made_with: dict[str, Any]) -> dict[str, float]:
    try:
        values: Any = json.loads(path.read_text())
        before = values["made_with"]
        recipe = parse_recipe(json.dumps(before["recipe"]), str(path))
        before["recipe"] = json.loads(recipe.to_json())  # an older row.json may have older names of fields
        others = [name for name in made_with if before[name] != made_with[name]]
        metrics = {name: float(value) for name, value in values["metrics"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise TrainingError(
            f"{path} cannot be read ({type(error).__name__}): remove its folder to train that row again"
        ) from error
    if others:
        raise TrainingError(
            f"{path.parent} holds a row made with another {others[0]} (see its {ROW_FILE}): use that again, "
            "or give another --output"
        )
    return metrics


def _fingerprint(source: str) -> str:
    """Return the SHA-256 of a file, or the text itself if no such file exists.

    The hash of an OpenVINO graph includes the weights beside it.
    """
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
    """Check that the initial weights fit the network, and count its weights without the classifier."""
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
