"""Two processes of torchrun give the losses, network and metrics of one process, up to rounding."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from live_server import make_checkpoint
from market1501_people import write_people
from model.checkpoint import load_checkpoint
from training import train
from training.data.datasets import ReidDataset, Sample
from training.data.readers import read_market1501
from training.engine import distributed
from training.engine.errors import TrainingError
from training.engine.trainer import Trainer
from training.recipes.named import tiny

ROOT = Path(__file__).parents[2]
NUM_EPOCHS, NUM_EPOCHS_LONG = 16, 20
RECIPE = replace(
    tiny(),
    precision="fp32",
    identities_per_batch=8,
    images_per_identity=4,
    optimizer="sgd",  # Adam would not notice gradients of a wrong size
    learning_rate=1e-5,
    momentum=0.0,
    circle_weight=0.02,
    circle_scale=8.0,
    centre_weight=0.01,
    teacher_relations_weight=0.2,
    min_images_per_identity=2,
    teacher_weight=0.2,
    gradient_checkpointing=True,
)


@pytest.fixture(scope="module")
def num_epochs(is_long: bool) -> int:
    """How many epochs a run has."""
    return NUM_EPOCHS_LONG if is_long else NUM_EPOCHS


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, num_epochs: int) -> Path:
    """A folder with the same run by one process and by two."""
    root = tmp_path_factory.mktemp("distributed")
    people = root / "people"
    write_people(people / "bounding_box_train", range(1, 9), range(1, 3), 2)
    write_people(people / "query", range(21, 31), range(1, 2), 1)
    write_people(people / "bounding_box_test", range(21, 31), range(2, 4), 1)
    (root / "recipe.json").write_text(replace(RECIPE, num_epochs=num_epochs).to_json())
    dataset = read_market1501(people)
    paths = np.array([sample.path.relative_to(people).as_posix() for sample in dataset.train])
    rows = np.random.default_rng(0).standard_normal((len(paths), 6)).astype(np.float32)
    np.savez(root / "teacher.npz", paths=paths, embeddings=rows)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["training/train.py", "--recipe", str(root / "recipe.json"), "--data", str(people)]
    command += ["--init", "none", "--device", "cpu", "--output", str(root / "two")]
    command += ["--teacher-embeddings", str(root / "teacher.npz"), "--workers", "0"]
    make_checkpoint(root / "old.safetensors")
    command += ["--compatible-with", str(root / "old.safetensors")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    (root / "printed.txt").write_text(ended.stdout)
    train.main(
        str(root / "recipe.json"),
        [str(people)],
        root / "one",
        init="none",
        teacher_embeddings=root / "teacher.npz",
        compatible_with=root / "old.safetensors",
        device="cpu",
        workers=0,
    )
    return root


def read_steps(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]


def test_two_processes_have_the_losses_of_one(runs: Path, num_epochs: int) -> None:
    one, two = read_steps(runs / "one"), read_steps(runs / "two")
    assert len(one) == len(two) >= num_epochs
    own = {"loss", "identity", "triplet", "circle", "centre", "influence"}
    assert set(one[0]) >= own | {"teacher", "teacher_relations"}
    for left, right in zip(one, two, strict=True):
        assert right == pytest.approx(left, abs=1e-5)
    assert one[-1]["loss"] < one[0]["loss"]


def test_two_processes_end_with_the_network_of_one(runs: Path) -> None:
    one, two = (load_checkpoint(runs / name / "last.safetensors").network for name in ("one", "two"))
    for (name, left), right in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-3, msg=name)


def test_two_processes_share_the_evaluation_and_one_reports_it(runs: Path, num_epochs: int) -> None:
    one, two = (load_checkpoint(runs / name / "network.safetensors").card for name in ("one", "two"))
    assert two.metrics == pytest.approx(one.metrics, abs=1.0)
    printed = (runs / "printed.txt").read_text()
    assert printed.count(f"epoch {num_epochs}:") == printed.count("network ") == 1


@pytest.fixture
def third_of_three() -> Iterator[None]:
    """Make this process rank 2 of three, without the other two."""
    dist.init_process_group("fake", rank=2, world_size=3, store=FakeStore())
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("third_of_three")
def test_batches_that_cannot_be_shared_evenly_are_refused(tmp_path: Path) -> None:
    samples = tuple(Sample(tmp_path / f"{i}", pid=1 + i // 2, camid=1) for i in range(12))
    dataset = ReidDataset("generated", tmp_path, samples, (), ())
    with pytest.raises(TrainingError, match="3 processes cannot share the 4 identities of a batch"):
        Trainer(tiny(), dataset, tmp_path)


@pytest.mark.usefixtures("third_of_three")
def test_each_process_takes_whole_identities_of_a_batch_and_a_third_of_a_list() -> None:
    assert distributed.own_part([1, 1, 2, 2, 3, 3]) == [3, 3]
    assert list(distributed.share(range(7))) == [2, 5]
    assert (distributed.rank(), distributed.world_size()) == (2, 3)


def test_a_single_process_takes_everything() -> None:
    rows = torch.arange(6.0)
    assert distributed.own_part([1, 2]) == [1, 2]
    assert distributed.share([1, 2]) == [1, 2]
    assert distributed.gather(rows) is rows
    assert distributed.collect({16: "b", 0: "a"}) == ["a", "b"]
    with distributed.joined("cpu") as device:
        assert device == torch.device("cpu")
        assert not distributed.is_joined()
