"""Compatible training: queries of a new network find people in the gallery of an old network."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from draw_people import write_market1501
from live_server import make_checkpoint
from model.checkpoint import Checkpoint, load_checkpoint
from model.embedder import Embedder
from model.layers import TrainingOutput
from references import loop_influence_loss, loop_metrics, loop_prototypes
from training import evaluate, train
from training.data.datasets import ReidDataset, label_pids, open_crop
from training.data.readers import read_market1501
from training.engine.compatibility import describe, is_compatible, make_prototypes, mean_by_class
from training.engine.criterion import Criterion
from training.engine.errors import TrainingError
from training.engine.trainer import Trainer
from training.losses.distillation import influence_loss
from training.recipes.named import tiny
from training.recipes.recipe import Recipe
from training.reports.finished_run import finish_run

RECIPE: Recipe = replace(
    tiny(),
    name="compatible",
    precision="fp32",
    num_epochs=4,
    identities_per_batch=6,
    learning_rate=5e-3,
    warmup_epochs=0.2,
    crop_padding=0,
    erasing_probability=0.0,
    flip_probability=0.0,
)
SEEDS = st.integers(0, 2**31)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread, because the threads of a tiny network mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of Market-1501; the test split has other images of the training people."""
    root = tmp_path_factory.mktemp("compatible") / "people"
    write_market1501(root / "bounding_box_train", range(1, 13), (1, 2, 3), range(6))
    write_market1501(root / "query", range(1, 13), (1,), range(30, 32))
    write_market1501(root / "bounding_box_test", range(1, 13), (2, 3), range(30, 32))
    return root


@pytest.fixture(scope="module")
def dataset(people: Path) -> ReidDataset:
    """The data set of the folder ``people``."""
    return read_market1501(people)


@pytest.fixture(scope="module")
def old(dataset: ReidDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network that embedded the gallery."""
    return trainer(RECIPE, dataset, tmp_path_factory.mktemp("old")).fit()


def trainer(recipe: Recipe, dataset: ReidDataset, output: Path, old: Path | None = None) -> Trainer:
    compatible_with = load_checkpoint(old) if old else None
    return Trainer(recipe, dataset, output, compatible_with=compatible_with, num_workers=0)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, scale=st.floats(1, 64))
def test_the_influence_loss_equals_the_loop(seed: int, scale: float) -> None:
    embeddings, prototypes, labels = draw(seed, 12, 5), draw(seed + 1, 4, 5), torch.arange(12) % 4
    loss = float(influence_loss(embeddings, labels, prototypes, scale))
    assert loss == pytest.approx(
        loop_influence_loss(embeddings, labels, prototypes, scale), rel=1e-3, abs=1e-4
    )


def test_the_influence_loss_moves_embeddings_to_a_prototype_of_any_length() -> None:
    prototypes, labels = draw(0, 4, 5), torch.arange(4)
    at_goal = float(influence_loss(7 * prototypes, labels, prototypes, 30.0))
    assert at_goal == pytest.approx(float(influence_loss(prototypes, labels, 3 * prototypes, 30.0)), rel=1e-4)
    assert at_goal < float(influence_loss(prototypes[[1, 2, 3, 0]], labels, prototypes, 30.0))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, num_more=st.integers(0, 20))
def test_prototypes_equal_the_loop(seed: int, num_more: int) -> None:
    rng = np.random.default_rng(seed)
    labels = [0, 1, 2, *rng.integers(0, 3, num_more).tolist()]
    rows = rng.standard_normal((len(labels), 4)).astype(np.float32)
    np.testing.assert_allclose(mean_by_class(rows, labels), loop_prototypes(rows.tolist(), labels), atol=1e-5)


def test_the_old_classifier_is_made_from_the_old_networks_embeddings_without_augmentation(
    old: Path, dataset: ReidDataset
) -> None:
    checkpoint = load_checkpoint(old)
    labels = label_pids(dataset.train)
    made = make_prototypes(checkpoint, dataset.train, 64)
    rows = Embedder(checkpoint, "torch-cpu").embed([open_crop(sample.path) for sample in dataset.train])
    expected = loop_prototypes(rows.tolist(), [labels[sample.pid] for sample in dataset.train])
    np.testing.assert_allclose(made, expected, atol=0.02)


def test_a_recipe_weights_the_old_classifier_which_is_frozen() -> None:
    output, labels = TrainingOutput(draw(3, 8, 5), draw(4, 8, 5), draw(5, 8, 4)), torch.arange(8) % 4
    terms = {}
    for weight in (0.0, 1.0, 3.0):
        criterion = Criterion(replace(RECIPE, compatible_weight=weight), 5, 4, 0, draw(6, 4, 5))
        assert not list(criterion.parameters())
        terms[weight] = criterion(output, labels)
    assert "influence" not in terms[0.0]
    assert float(terms[1.0]["influence"]) == pytest.approx(
        loop_influence_loss(output.embedding, labels, draw(6, 4, 5), RECIPE.compatible_scale), rel=1e-4
    )
    assert float(terms[3.0]["influence"]) == pytest.approx(3 * float(terms[1.0]["influence"]))
    assert "influence" not in Criterion(RECIPE, 5, 4, 0)(output, labels)


def across(
    queries: Path, gallery: Path, people: Path, capsys: pytest.CaptureFixture[str], device: str = "torch-cpu"
) -> dict[str, float]:
    """Return the metrics that evaluate.py prints for one network's queries in another's gallery."""
    capsys.readouterr()
    evaluate.main([queries], [str(people)], gallery_checkpoint=gallery, device=device, as_json=True)
    found: dict[str, float] = json.loads(capsys.readouterr().out)
    return found


def test_compatible_training_makes_new_queries_find_people_in_the_old_gallery(
    old: Path, dataset: ReidDataset, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both new networks have the same initial weights, and train on the same crops in the same order."""
    recipe = replace(RECIPE, seed=1)
    compatible = trainer(recipe, dataset, tmp_path / "compatible", old).fit()
    other = trainer(replace(recipe, compatible_weight=0.0), dataset, tmp_path / "other", old)
    plain = finish_run(other, other.fit(), dataset)
    assert (
        "not compatible, so the card does not say so: rank-1 of the new queries is more than 0.5"
        in capsys.readouterr().out
    )
    assert load_checkpoint(plain).card.compatible_with is None
    gain = across(compatible, old, people, capsys)["mAP"] - across(plain, old, people, capsys)["mAP"]
    assert gain > 30  # by chance a query finds one person in twelve


@pytest.fixture(scope="module")
def successor(old: Path, people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of train.py that started from the old network's weights."""
    root = tmp_path_factory.mktemp("successor")
    (root / "recipe.json").write_text(replace(RECIPE, num_epochs=1, learning_rate=1e-4).to_json())
    train.main(
        str(root / "recipe.json"),
        [str(people)],
        root / "run",
        init=str(old),
        compatible_with=old,
        device="cpu",
        workers=0,
    )
    return root / "run"


def test_the_card_says_what_was_measured_across_the_versions(
    successor: Path, old: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promise = load_checkpoint(successor / "network.safetensors").card.compatible_with
    assert promise is not None
    assert promise["version"] == load_checkpoint(old).version
    cross, own = (
        across(queries, old, people, capsys, "auto") for queries in (successor / "network.safetensors", old)
    )
    for name in ("rank1", "mAP"):
        assert (promise[f"{name}_cross"], promise[f"{name}_old"]) == (cross[name], own[name])
    assert promise["is_strict"] == all(cross[name] > own[name] for name in ("rank1", "mAP"))


def test_metrics_across_versions_use_the_new_queries_in_the_old_gallery(
    successor: Path, old: Path, people: Path, dataset: ReidDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    new = successor / "network.safetensors"
    embedders = [Embedder(load_checkpoint(path), "torch-cpu") for path in (new, old)]
    queries, gallery = (
        embedder.embed([open_crop(sample.path) for sample in samples])
        for embedder, samples in zip(embedders, (dataset.query, dataset.gallery), strict=True)
    )
    labels = [
        np.array([getattr(sample, name) for sample in samples])
        for name in ("pid", "camid")
        for samples in (dataset.query, dataset.gallery)
    ]
    cmc, mean_ap = loop_metrics(1 - queries @ gallery.T, *labels)
    found = across(new, old, people, capsys)
    assert (found["rank1"], found["mAP"]) == pytest.approx((100 * cmc[0], 100 * mean_ap), abs=0.01)


def test_networks_are_strictly_compatible_if_the_new_queries_are_better() -> None:
    measured = {
        "version": "0" * 12,
        "rank1_cross": 91.0,
        "mAP_cross": 80.0,
        "rank1_old": 90.0,
        "mAP_old": 79.0,
    }
    assert "find more than the old ones did" in describe({**measured, "is_strict": True})
    worse = {**measured, "rank1_cross": 89.5, "is_strict": False}
    assert is_compatible(worse)
    assert "do not find more" in describe(worse)
    assert not is_compatible({**measured, "rank1_cross": 89.49})


def test_embeddings_of_another_size_are_refused_before_anything_is_trained(
    people: Path, old: Path, tmp_path: Path
) -> None:
    other, run = tmp_path / "other.safetensors", tmp_path / "run"
    make_checkpoint(other, architecture="mobilenet_v2")
    with pytest.raises(
        SystemExit, match=r"train: embeddings of 64 dimensions cannot be compared with .* 1280"
    ):
        train.main("tiny", [str(people)], run, init="none", compatible_with=other, device="cpu")
    assert not run.exists()
    with pytest.raises(SystemExit, match="evaluate: embeddings of 64 and 1280 dimensions cannot be compared"):
        evaluate.main([old], [str(people)], gallery_checkpoint=other, device="torch-cpu")


class Stopped(Exception):
    """Stops a run in the middle of an epoch."""


class StoppingTeacher:
    """A teacher without influence on the loss, which stops the run after ``num_steps`` steps."""

    size = 4

    def __init__(self, num_steps: int) -> None:
        self._left = num_steps

    def __call__(self, images: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002 - the other teachers'
        """Return embeddings (N, 4) that no loss uses, or raise."""
        if self._left == 0:
            raise Stopped
        self._left -= 1
        return torch.zeros(len(images), 4)


def test_a_resumed_run_stays_compatible_with_the_same_network(
    old: Path, dataset: ReidDataset, tmp_path: Path
) -> None:
    recipe, checkpoint = replace(RECIPE, num_epochs=2, teacher_weight=0.0), load_checkpoint(old)
    some = replace(dataset, train=dataset.train[::3])

    def make(name: str, num_steps: int, compatible_with: Checkpoint | None = checkpoint) -> Trainer:
        return Trainer(
            recipe,
            some,
            tmp_path / name,
            teacher=StoppingTeacher(num_steps),
            compatible_with=compatible_with,
            num_workers=0,
            save_every_s=0,
        )

    whole = make("whole", -1).fit()
    with pytest.raises(Stopped):
        make("stopped", 5).fit()
    make_checkpoint(tmp_path / "other.safetensors")
    for other in (None, load_checkpoint(tmp_path / "other.safetensors")):
        with pytest.raises(TrainingError, match="a run with another --compatible-with, or with none"):
            make("stopped", -1, other).fit(resume=True)
    stopped = make("stopped", -1).fit(resume=True)
    assert (tmp_path / "stopped" / "steps.jsonl").read_text() == (
        tmp_path / "whole" / "steps.jsonl"
    ).read_text()
    assert '"influence"' in (tmp_path / "whole" / "steps.jsonl").read_text()
    expected, found = load_file(whole), load_file(stopped)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
