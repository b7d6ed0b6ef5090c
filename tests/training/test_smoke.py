"""The whole path of a user: draw people, train by a recipe, evaluate, embed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from draw_people import write_market1501
from model.architectures import build_network
from model.card import Card
from model.checkpoint import save_checkpoint
from references import loop_metrics
from training import embed, evaluate, train
from training.recipes.named import tiny
from training.recipes.recipe import Recipe

RECIPE: Recipe = replace(
    tiny(),
    name="smoke",
    precision="fp32",
    identities_per_batch=6,
    learning_rate=5e-3,
    warmup_epochs=0.2,
    crop_padding=0,
    erasing_probability=0.0,
)
MIN_MAP, MARGIN = 90, 40


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Use one thread, because the threads of a tiny network mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A folder in the layout of Market-1501: twelve people, with other images of each in the test split.

    The queries are from camera 1, the gallery from cameras 2 and 3, which have other colour casts.
    """
    root = tmp_path / "people"
    write_market1501(root / "bounding_box_train", range(1, 13), (1, 2, 3), range(30))
    write_market1501(root / "query", range(1, 13), (1,), range(30, 32))
    write_market1501(root / "bounding_box_test", range(1, 13), (2, 3), range(30, 34))
    return root


def save_untrained(path: Path) -> Path:
    """Save the recipe's network with its initial weights."""
    torch.manual_seed(RECIPE.seed)
    network = build_network(RECIPE.architecture, height=RECIPE.height, width=RECIPE.width, num_identities=12)
    size = network.embedding_size
    card = Card(
        architecture="tiny", height=RECIPE.height, width=RECIPE.width, embedding_size=size, num_identities=12
    )
    save_checkpoint(path, network, card, half=True)
    return path


def read_printed_metrics(printed: str) -> dict[str, str]:
    """Return the cells of the one table that a command printed."""
    rows = [line.strip("┃│").replace("┃", "│").split("│") for line in printed.splitlines() if line[0] in "┃│"]
    header, cells = ([cell.strip() for cell in row] for row in rows)
    return dict(zip(header, cells, strict=True))


def read_embeddings(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return embeddings (N, D) of a file of embed.py, with pids (N,) and camids (N,) from the file names."""
    with np.load(path) as arrays:
        names = [Path(name).name for name in arrays["paths"].tolist()]
        pids, camids = np.array([int(name[:4]) for name in names]), np.array([int(name[6]) for name in names])
        return arrays["embeddings"], pids, camids


@pytest.mark.usefixtures("_one_thread")
def test_two_epochs_of_training_teach_a_network_twelve_people(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.json").write_text(RECIPE.to_json())
    run, data = tmp_path / "run", [str(people)]
    assert RECIPE.num_epochs == 2
    train.main(str(tmp_path / "recipe.json"), data, run, init="none", device="cpu", workers=0)
    printed = read_printed_metrics(capsys.readouterr().out)

    evaluate.main([run / "network.safetensors"], data, as_json=True)
    metrics = json.loads(capsys.readouterr().out)
    assert {name: f"{metrics[name.replace(' ', '_')]:.2f}" for name in printed} == printed

    for split in ("query", "gallery"):
        embed.main(run / "network.safetensors", data, tmp_path / f"{split}.npz", split=split)
    queries_QD, q_pids, q_camids = read_embeddings(tmp_path / "query.npz")
    gallery_GD, g_pids, g_camids = read_embeddings(tmp_path / "gallery.npz")
    cmc, mean = loop_metrics(1 - queries_QD @ gallery_GD.T, q_pids, g_pids, q_camids, g_camids)
    assert 100 * mean == pytest.approx(metrics["mAP"], abs=0.01)
    assert 100 * cmc[0] == pytest.approx(metrics["rank1"], abs=0.01)
    capsys.readouterr()

    evaluate.main([save_untrained(tmp_path / "untrained.safetensors")], data, "torch-cpu", as_json=True)
    untrained = json.loads(capsys.readouterr().out)
    assert metrics["mAP"] > MIN_MAP
    assert untrained["mAP"] < metrics["mAP"] - MARGIN
