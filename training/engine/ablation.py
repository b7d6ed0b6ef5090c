"""Rows of an ablation: a recipe with other architectures, each in a folder of its own, as far as it got."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.architectures import ARCHITECTURES, LAST_STAGE_ONLY, NUM_STAGES, build_network
from model.errors import UnknownArchitecture
from model.files import write_atomically
from training.data.datasets import SPLITS, ReidDataset
from training.engine import distributed
from training.engine.errors import TrainingError
from training.engine.run_state import writing
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
"""The RGA paper's ablations (section 4.3), as what stands before a trunk's name; ``all`` has each once."""


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
        """Write what it is made with, and its metrics if they are known; the first process does so."""
        if distributed.rank() != 0:
            return
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
    output: str | Path,
    init: str,
    teacher: str | Path | None,
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
    row = Row(recipe, Path(output) / recipe.architecture, made_with, num_weights)
    path = row.folder / ROW_FILE
    if path.exists():
        row.metrics = _read_metrics(path, made_with)
    elif (row.folder / STATE_FILE).exists():
        raise TrainingError(f"{row.folder} holds a run that is no row of a table: give another --output")
    return row


def _read_metrics(path: Path, made_with: dict[str, Any]) -> dict[str, float]:
    try:
        values: Any = json.loads(path.read_text())
        before = values["made_with"]
        recipe = parse_recipe(json.dumps(before["recipe"]), str(path))
        before["recipe"] = json.loads(recipe.to_json())  # whose fields may have had older names
        others = [name for name in made_with if before[name] != made_with[name]]
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
