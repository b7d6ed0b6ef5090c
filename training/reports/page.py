"""The report of a finished run: a page with metrics, curves, ranked lists, attention maps and recipe.

Each picture is a PNG beside the page and also inside the page, so that the page can be moved alone.
"""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from model.checkpoint import Checkpoint
from model.files import write_atomically
from training.data.datasets import ReidDataset, open_crop
from training.engine.evaluation import EmbeddedSplits
from training.engine.run_log import ENVIRONMENT_FILE, read_log
from training.reports.attention_maps import VisualizeError, attention_maps, draw_attention, to_png
from training.reports.curves import draw_curves
from training.reports.ranked_lists import RankedList, Ranking, choose_queries, draw_ranked_lists

REPORT_FILE = "report.html"
NUM_ATTENTION = 4
"""Queries with attention maps among the worst ones, and as many among the random ones."""
_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_report(
    run: str | Path,
    checkpoint: Checkpoint,
    dataset: ReidDataset,
    embeddings: EmbeddedSplits,
    metrics: dict[str, float],
) -> Path:
    """Write report.html and its PNGs to a run's folder and return the path of the page.

    Args:
        run: the folder of the run, with recipe.json, environment.json and metrics.jsonl.
        checkpoint: the finished network, for its attention maps.
        dataset: the data set that the network was evaluated on.
        embeddings: of its query and gallery split.
        metrics: of these embeddings, in percent.

    Raises:
        DatasetError: a crop cannot be read.
        ValueError: a file of the run is absent, or train.py has not written it.
    """
    run = Path(run)
    recipe, environment, log = _read(run / "recipe.json"), _read(run / ENVIRONMENT_FILE), read_log(run)
    ranking = Ranking(dataset, embeddings)
    chosen = choose_queries(ranking.average_precisions(), seed=int(recipe.get("seed", 0)))
    worst, random = ([ranking.rank(position) for position in positions] for positions in chosen)
    pictures = {f"curve-{name}": png for name, png in draw_curves(log, metrics).items()}
    curves = list(pictures)
    pictures["ranked-worst"] = to_png(draw_ranked_lists(worst))
    pictures["ranked-random"] = to_png(draw_ranked_lists(random))
    pictures |= _draw_attention(checkpoint, [*worst[:NUM_ATTENTION], *random[:NUM_ATTENTION]])
    for name, png in pictures.items():
        write_atomically(run / f"{name}.png", png)
    page = _PAGES.get_template(REPORT_FILE).render(
        run=run.resolve().name,
        version=checkpoint.version,
        card=checkpoint.card,
        dataset=dataset,
        metrics=metrics,
        pictures={name: _inline(png) for name, png in pictures.items()},
        curves=curves,
        lists={"worst": _rows(worst, dataset), "random": _rows(random, dataset)},
        num_attention=NUM_ATTENTION,
        recipe=recipe,
        environment=_flatten(environment),
        num_epochs=len(log),
    )
    write_atomically(run / REPORT_FILE, page.encode())
    return run / REPORT_FILE


def _read(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read, though every run has this file: {error}") from error
    return values


def _draw_attention(checkpoint: Checkpoint, lists: Sequence[RankedList]) -> dict[str, bytes]:
    crops = [open_crop(ranked.query.path) for ranked in lists]
    try:
        maps = attention_maps(checkpoint, crops)
    except VisualizeError:
        return {}  # the page then says that the network has no spatial attention
    across = max(2, 8 // (1 + len(maps)))
    return {"attention": to_png(draw_attention(crops, maps, across=across))}


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _rows(lists: Sequence[RankedList], dataset: ReidDataset) -> list[dict[str, object]]:
    return [
        {
            "file": dataset.relative_path(ranked.query),
            "pid": ranked.query.pid,
            "camid": ranked.query.camid,
            "average_precision": 100 * ranked.average_precision,
            "first_match": ranked.first_match,
            "num_matches": sum(ranked.is_match),
        }
        for ranked in lists
    ]


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Turn nested values into rows of text.

    >>> _flatten({"cpu": {"threads": 2}, "command": ["train", "--resume"], "commit": None})
    {'cpu threads': '2', 'command': 'train --resume', 'commit': 'none'}
    """
    rows: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            rows |= _flatten(value, f"{prefix}{name} ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, one in enumerate(value, start=1):
                rows |= _flatten(one, f"{prefix}{name} {number} ")
        elif isinstance(value, list):
            rows[prefix + name] = " ".join(map(str, value)) or "none"
        else:
            rows[prefix + name] = "none" if value is None else str(value)
    return rows
