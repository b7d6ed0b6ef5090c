"""A run that is killed and resumed equals an uninterrupted run, and its files are complete."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from market1501_people import write_people
from model.checkpoint import load_checkpoint
from training.data.readers import read_market1501
from training.engine.errors import TrainingError
from training.engine.run_log import RunLog
from training.engine.trainer import Trainer
from training.recipes.named import tiny
from training.weights.teachers import EmbeddingsTeacher

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of Market-1501: 8 people for training, 2 others for testing."""
    root = tmp_path_factory.mktemp("people")
    write_people(root / "bounding_box_train", range(1, 9), range(1, 3), 2)
    write_people(root / "query", range(21, 23), range(1, 2), 1)
    write_people(root / "bounding_box_test", range(21, 23), range(2, 3), 1)
    return root


@pytest.fixture(scope="module")
def runs(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of an uninterrupted run, and of the same run killed many times."""
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, str(ROOT / "tests" / "support" / "killed_run.py"), str(people), str(folder)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout.splitlines()[-1]) >= 5
    return folder


def test_a_killed_run_repeats_every_loss_to_the_last_bit(runs: Path) -> None:
    whole, killed = ((runs / name / "steps.jsonl").read_text() for name in ("whole", "killed"))
    lines = [json.loads(line) for line in whole.splitlines()]
    for epoch in (1, 2, 3):
        steps = [line["step"] for line in lines if line["epoch"] == epoch]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= 4
    assert len({line["loss"] for line in lines}) == len(lines)
    assert killed == whole  # to the last digit, because Python prints floats exactly


def test_a_killed_run_ends_with_the_same_networks(runs: Path) -> None:
    for name in ("last.safetensors", "best.safetensors"):
        whole, killed = (load_file(runs / run / name) for run in ("whole", "killed"))
        assert whole.keys() == killed.keys()
        assert all(torch.equal(whole[key], killed[key]) for key in whole)


def test_a_killed_run_logs_every_epoch_once(runs: Path) -> None:
    logs = []
    for run in ("whole", "killed"):
        lines = map(json.loads, (runs / run / "metrics.jsonl").read_text().splitlines())
        logs.append([{key: line[key] for key in line if key != "images_per_s"} for line in lines])
    assert logs[0] == logs[1]
    assert [line["epoch"] for line in logs[0]] == [1, 2, 3]


def test_the_best_network_is_chosen_by_the_held_out_people(runs: Path) -> None:
    lines = [json.loads(line) for line in (runs / "whole" / "metrics.jsonl").read_text().splitlines()]
    best = max(line["held_out_mAP"] for line in lines)
    assert load_checkpoint(runs / "whole" / "best.safetensors").card.metrics["mAP"] == best
    assert load_checkpoint(runs / "whole" / "last.safetensors").card.pooling == "gem"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"\x80\x02]q\x00."])
def test_a_damaged_state_is_named(people: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(TrainingError, match=r"state\.pt cannot be read|not the state of a run") as caught:
        Trainer(tiny(), read_market1501(people), tmp_path).fit(resume=True)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "state.pt").read_bytes() == content


def test_a_partial_state_never_replaces_a_complete_one(people: Path, tmp_path: Path) -> None:
    """The resumed run cannot write a file of more than a few kilobytes."""
    dataset, recipe = read_market1501(people), replace(tiny(), num_epochs=3)
    Trainer(recipe, dataset, tmp_path / "run", num_workers=0).fit()
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    torch.save({**state, "epoch": 2}, tmp_path / "run" / "state.pt")
    before = (tmp_path / "run" / "state.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(TrainingError, match=r"cannot be written \(File too large\): make room") as caught:
            Trainer(recipe, dataset, tmp_path / "run", num_workers=0).fit(resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob(".*tmp"))
    Trainer(recipe, dataset, tmp_path / "run", num_workers=0).fit(resume=True)
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["epoch"] == 3


def test_a_run_with_the_recipe_of_an_older_version_is_resumed(people: Path, tmp_path: Path) -> None:
    dataset, recipe = read_market1501(people), replace(tiny(), num_epochs=1)
    Trainer(recipe, dataset, tmp_path, num_workers=0).fit()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    values = json.loads(state["recipe"])
    del values["gradient_checkpointing"], values["sampler"], values["compatible_scale"]
    values |= {"recomputes": False, "epoch_draws": "images", "warmup_epochs": 1}
    torch.save({**state, "recipe": json.dumps(values)}, tmp_path / "state.pt")
    Trainer(recipe, dataset, tmp_path).fit(resume=True)
    torch.save({**state, "recipe": json.dumps({**values, "newer": 1})}, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match="another recipe"):
        Trainer(recipe, dataset, tmp_path).fit(resume=True)


def test_a_run_is_not_resumed_with_another_recipe_teacher_or_data(people: Path, tmp_path: Path) -> None:
    dataset, recipe = read_market1501(people), replace(tiny(), num_epochs=1)
    Trainer(recipe, dataset, tmp_path, num_workers=0).fit()
    with pytest.raises(TrainingError, match="another recipe"):
        Trainer(replace(recipe, num_epochs=2), dataset, tmp_path).fit(resume=True)
    teacher = EmbeddingsTeacher(torch.randn(32, 8), torch.device("cpu"))
    with pytest.raises(TrainingError, match="another teacher"):
        Trainer(recipe, dataset, tmp_path, teacher=teacher).fit(resume=True)
    with pytest.raises(TrainingError, match="on other crops"):
        Trainer(recipe, replace(dataset, train=dataset.train[1:]), tmp_path).fit(resume=True)
    with pytest.raises(TrainingError, match="add --resume"):
        Trainer(recipe, dataset, tmp_path).fit()


def test_log_lines_after_the_saved_state_are_deleted(people: Path, tmp_path: Path) -> None:
    """The run died after it had written the logs and before the state; the last line is incomplete."""
    dataset, recipe = read_market1501(people), tiny()
    Trainer(recipe, dataset, tmp_path, num_workers=0).fit()
    files = [tmp_path / name for name in ("steps.jsonl", "metrics.jsonl")]
    before = [path.read_text() for path in files]
    for path, more in zip(files, ('{"epoch": 3, "step": 1, "loss": 1.0}', '{"epoch": 3}'), strict=True):
        with path.open("a") as file:
            file.write(f'{more}\n{{"epoch": 3, "st')
    Trainer(recipe, dataset, tmp_path, num_workers=0).fit(resume=True)
    assert [path.read_text() for path in files] == before
    log = RunLog(tmp_path)
    log.start(dataset, seed=0, epoch=1, step=2)
    log.close()
    kept = [[json.loads(line) for line in path.read_text().splitlines()] for path in files]
    assert (kept[0][-1]["epoch"], kept[0][-1]["step"]) == (2, 2)
    assert [line["epoch"] for line in kept[1]] == [1]


def test_a_run_that_died_between_the_last_step_and_the_end_of_an_epoch_is_resumed(
    people: Path, tmp_path: Path
) -> None:
    """The first run fails in its evaluation, because only one camera saw the held-out people."""
    dataset = read_market1501(people)
    recipe = replace(tiny(), precision="fp32", num_held_out=2, evaluate_every=1)
    Trainer(recipe, dataset, tmp_path / "whole", num_workers=0).fit()
    alike = tuple(replace(sample, camid=1) for sample in dataset.train)
    with pytest.raises(ValueError, match="no query has a match"):
        Trainer(recipe, replace(dataset, train=alike), tmp_path / "run", num_workers=0, save_every_s=0).fit()
    assert not (tmp_path / "run" / "last.safetensors").exists()
    Trainer(recipe, dataset, tmp_path / "run", num_workers=1).fit(resume=True)
    logs = []
    for run in ("whole", "run"):
        lines = map(json.loads, (tmp_path / run / "metrics.jsonl").read_text().splitlines())
        logs.append([{key: line[key] for key in line if key != "images_per_s"} for line in lines])
    assert logs[0] == logs[1]
    assert (tmp_path / "run" / "steps.jsonl").read_text() == (tmp_path / "whole" / "steps.jsonl").read_text()
