"""ablate.py: each row equals a run of train.py, also after a kill, and is never trained twice."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from draw_people import write_market1501
from forked import Fork
from live_server import wait_until
from model.architectures import ARCHITECTURES, TRUNKS, build_network
from model.checkpoint import load_checkpoint
from training import ablate, train
from training.engine.ablation import TABLES, architectures_of
from training.recipes.named import tiny
from training.recipes.recipe import Recipe
from training_command import start_command

RECIPE: Recipe = replace(tiny(), precision="fp32", learning_rate=5e-3, warmup_epochs=0.2)
NAMES = ["plain_tiny", "rga_sc_tiny"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread, as the killed command does, because sums of floats depend on their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight people for training, eight others for testing, and a recipe whose metrics stay below 100 %."""
    root = tmp_path_factory.mktemp("people")
    write_market1501(root / "bounding_box_train", range(1, 9), (1, 2), range(2))
    write_market1501(root / "query", range(21, 29), (1,), range(2))
    write_market1501(root / "bounding_box_test", range(21, 29), (2, 3), range(2))
    (root / "recipe.json").write_text(RECIPE.to_json())
    return root


def make_table(people: Path, output: Path, **options: Any) -> None:
    """Run the command in this process."""
    recipe = options.pop("recipe", str(people / "recipe.json"))
    options = {"init": "none", "device": "cpu", "workers": 0, **options}
    ablate.main(recipe, [str(people)], output, **options)


def read_rows(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((output / "ablation.json").read_text())["rows"]
    return rows


def modification_times(output: Path) -> dict[Path, int]:
    """Return when each file in the folders of the rows was last written."""
    return {path: path.stat().st_mtime_ns for path in output.glob("*/**/*") if path.is_file()}


def use_old_field_names(path: Path) -> None:
    """Rename fields of a row's recipe to the names of an older version."""
    row = json.loads(path.read_text())
    recipe = row["made_with"]["recipe"]
    recipe["recomputes"] = recipe.pop("gradient_checkpointing")
    recipe["epoch_draws"] = recipe.pop("sampler")
    path.write_text(json.dumps(row))


@pytest.fixture(scope="module")
def finished(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished table of two rows, made without an interruption."""
    output = tmp_path_factory.mktemp("tables") / "whole"
    make_table(people, output, architecture=NAMES)
    return output


def test_each_row_is_what_train_gives_for_its_recipe(finished: Path, people: Path, tmp_path: Path) -> None:
    rows = read_rows(finished)
    assert [row["architecture"] for row in rows] == NAMES
    for row in rows:
        recipe = tmp_path / f"{row['architecture']}.json"
        recipe.write_text(replace(RECIPE, architecture=row["architecture"]).to_json())
        run = tmp_path / row["architecture"]
        train.main(str(recipe), [str(people)], run, init="none", device="cpu", workers=0)
        card = load_checkpoint(run / "network.safetensors").card
        assert row["metrics"] == card.metrics
        assert row["difference"]["mAP"] == round(card.metrics["mAP"] - rows[0]["metrics"]["mAP"], 2)
    assert len({row["metrics"]["mAP"] for row in rows}) == len(rows)


def test_the_table_counts_the_weights_without_the_classifier(finished: Path) -> None:
    for row in read_rows(finished):
        network = build_network(row["architecture"], height=64, width=32, num_identities=8)
        count = sum(weight.numel() for weight in network.parameters())
        assert row["num_weights"] == count - network.classifier.weight.numel()


def is_there_or_ended(sign: Path, process: Fork) -> bool:
    """Return whether a file is there, or the process that is to write it has ended."""
    return sign.exists() or process.poll() is not None


def test_a_command_that_is_killed_several_times_makes_the_same_table(
    finished: Path, people: Path, tmp_path: Path
) -> None:
    """Kill the command before a finished row saves its metrics, and again early in the next row."""
    output = tmp_path / "killed"
    options = ["--recipe", people / "recipe.json", "--data", people, "--output", output, "--init", "none"]
    options += [word for name in NAMES for word in ("--architecture", name)]
    options += ["--device", "cpu", "--workers", "0", "--save-seconds", "0"]
    for sign in (output / NAMES[0] / "network.safetensors", output / NAMES[1] / "state.pt"):
        process = start_command("ablate", *options, folder=tmp_path)
        wait_until(partial(is_there_or_ended, sign, process))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (output / NAMES[1] / "network.safetensors").exists()
    make_table(people, output, architecture=NAMES)
    for name in ("ablation.json", "ablation.md"):
        assert (output / name).read_bytes() == (finished / name).read_bytes()
    for name in NAMES:
        steps = [(folder / name / "steps.jsonl").read_text() for folder in (finished, output)]
        assert steps[0] == steps[1]


def test_a_larger_table_trains_only_new_rows_and_a_smaller_table_trains_none(
    finished: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "table"
    shutil.copytree(finished, output)
    use_old_field_names(output / NAMES[0] / "row.json")
    before = modification_times(output)
    make_table(people, output, table="symmetry")
    rows, after = read_rows(output), modification_times(output)
    assert [row["architecture"] for row in rows] == [NAMES[0], "rga_sc_symmetric_tiny", NAMES[1]]
    assert [rows[0], rows[2]] == read_rows(finished)
    assert {path: after[path] for path in before} == before
    printed = capsys.readouterr().out
    for row in rows:
        line = next(line for line in printed.splitlines() if f" {row['architecture']} " in line)
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert cells[1] == f"{row['num_weights']:,}"
        assert cells[2:4] == [f"{row['metrics'][name]:.2f}" for name in ("rank1", "mAP")]
        assert cells[4:] == [f"{row['difference'][name]:+.2f}" for name in ("rank1", "mAP")]
    make_table(people, output, architecture=["rga_sc_tiny"])
    (alone,) = read_rows(output)
    assert alone["metrics"] == rows[2]["metrics"]
    assert set(alone["difference"].values()) == {0}
    assert modification_times(output) == after


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_table_starts_with_the_plain_trunk_and_all_has_each_network_once(trunk: str) -> None:
    for table in [*TABLES, "all"]:
        names = architectures_of(table, f"rga_sc_{trunk}")
        assert names[0] == ("plain_tiny" if trunk == "tiny" else trunk)
        assert set(names) <= set(ARCHITECTURES)
        assert len(set(names)) == len(names)
    everything = set(architectures_of("all", f"rga_sc_{trunk}"))
    same = {f"rga_sc_all_{trunk}"} if trunk in ("resnet50", "mobilenet_v2") else set()
    same |= {"rga_sc_stage4_tiny", "rga_sc_stage3_osnet"}
    assert everything == {name for name in ARCHITECTURES if name.endswith(trunk)} - same - {"tiny"}


@pytest.fixture
def refuse(people: Path, tmp_path: Path) -> Callable[..., str]:
    """Run ablate.py, which must fail, and return its one line of error."""

    def end(output: Path = tmp_path / "table", **options: Any) -> str:
        with pytest.raises(SystemExit) as caught:
            make_table(people, output, **options)
        line = str(caught.value.code)
        assert line.startswith("ablate: ")
        assert "\n" not in line
        return line

    return end


def test_an_impossible_table_is_refused_before_training(refuse: Callable[..., str], tmp_path: Path) -> None:
    assert "name a --table (modules, relations, symmetry, stages, all)" in refuse()
    assert "no table 'big'; there are modules" in refuse(table="big")
    assert "no recipe 'big'" in refuse(table="modules", recipe="big")
    line = refuse(table="symmetry", architecture=["rga_big"])
    assert "row rga_big: no architecture 'rga_big'" in line
    assert "row plain_tiny: torchvision has no ImageNet weights" in refuse(table="modules", init="imagenet")
    recipe = tmp_path / "recipe.json"
    recipe.write_text(replace(RECIPE, architecture="rga_big").to_json())
    assert "no architecture 'rga_big'" in refuse(table="modules", recipe=str(recipe))
    assert not (tmp_path / "table").exists()


def test_a_row_that_was_made_with_something_else_is_refused(
    refuse: Callable[..., str], finished: Path, people: Path, tmp_path: Path
) -> None:
    before = modification_times(finished)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(replace(RECIPE, learning_rate=1e-3).to_json())
    line = refuse(finished, table="symmetry", recipe=str(recipe))
    assert "row plain_tiny" in line
    assert "made with another recipe (see its row.json)" in line
    weights = str(finished / "plain_tiny" / "network.safetensors")
    assert "another init" in refuse(finished, architecture=["plain_tiny"], init=weights)
    names = [f"bounding_box_train/{path.name}" for path in (people / "bounding_box_train").iterdir()]
    rows = np.random.default_rng(0).standard_normal((len(names), 4)).astype(np.float32)
    np.savez(tmp_path / "teacher.npz", paths=np.array(names), embeddings=rows)
    assert "another teacher" in refuse(
        finished, table="symmetry", teacher_embeddings=tmp_path / "teacher.npz"
    )
    extra = people / "query" / "0021_c1s1_000009_00.jpg"
    extra.write_bytes((people / "query" / "0021_c1s1_000000_00.jpg").read_bytes())
    try:
        assert "another data set" in refuse(finished, table="symmetry")
    finally:
        extra.unlink()
    assert modification_times(finished) == before


def test_a_rows_folder_with_other_contents_is_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "table" / "plain_tiny"
    folder.mkdir(parents=True)
    (folder / "state.pt").write_bytes(b"of a run")
    assert "holds a run that is not a row of a table" in refuse(table="symmetry")
    for content in ("torn", "[]", '{"made_with": {}}', '{"made_with": null, "metrics": {}}'):
        (folder / "row.json").write_text(content)
        assert "row.json cannot be read" in refuse(table="symmetry")
    assert sorted(path.name for path in folder.iterdir()) == ["row.json", "state.pt"]


def test_a_failing_row_is_named_and_earlier_rows_are_kept(refuse: Callable[..., str], tmp_path: Path) -> None:
    """The second row fails because its folder is a file, and then because its learning rate is too high."""
    output, recipe = tmp_path / "table", tmp_path / "recipe.json"
    output.mkdir()
    (output / "rga_s_tiny").write_text("not a folder")
    line = refuse(output, architecture=["plain_tiny", "rga_s_tiny"])
    assert "row rga_s_tiny: " in line
    assert "cannot be written" in line
    assert [row["architecture"] for row in read_rows(output)] == ["plain_tiny"]
    recipe.write_text(replace(RECIPE, learning_rate=1e30, warmup_epochs=0.0).to_json())
    line = refuse(tmp_path / "broken", table="symmetry", recipe=str(recipe))
    assert "row plain_tiny: the loss became" in line
    assert not (tmp_path / "broken" / "ablation.json").exists()


def test_a_trunks_state_dict_starts_every_row_and_a_checkpoint_only_its_own(
    refuse: Callable[..., str], people: Path, finished: Path, tmp_path: Path
) -> None:
    """With ``only_attention``, all other weights keep their initial values, also in the plain row."""
    trunk = load_checkpoint(finished / "plain_tiny" / "last.safetensors").network.backbone.state_dict()
    torch.save(trunk, tmp_path / "trunk.pth")
    recipe = tmp_path / "recipe.json"
    recipe.write_text(replace(RECIPE, only_attention=True, num_epochs=1).to_json())
    output, trunk_file = tmp_path / "from-trunk", str(tmp_path / "trunk.pth")
    make_table(people, output, architecture=NAMES, recipe=str(recipe), init=trunk_file)
    for name in NAMES:
        weights = load_checkpoint(output / name / "last.safetensors").network.backbone.state_dict()
        assert torch.equal(weights["0.0.weight"], trunk["0.0.weight"])
    checkpoint = str(finished / "plain_tiny" / "network.safetensors")
    line = refuse(table="symmetry", init=checkpoint)
    assert "row rga_sc_symmetric_tiny" in line
    assert "plain_tiny/network.safetensors is of another architecture: the networks have other layers" in line
    assert not (tmp_path / "table" / "rga_sc_symmetric_tiny").exists()


def test_a_row_starts_from_a_checkpoint_of_another_input_size_on_request(
    refuse: Callable[..., str], people: Path, finished: Path, tmp_path: Path
) -> None:
    recipe, checkpoint = tmp_path / "recipe.json", finished / "rga_sc_tiny" / "network.safetensors"
    recipe.write_text(replace(RECIPE, height=96, num_epochs=1).to_json())
    options = {"architecture": ["rga_sc_tiny"], "recipe": str(recipe), "init": str(checkpoint)}
    assert "give --resize-relations to interpolate them" in refuse(**options)
    make_table(people, tmp_path / "larger", **options, resize_relations=True)
    card = load_checkpoint(tmp_path / "larger" / "rga_sc_tiny" / "network.safetensors").card
    assert (card.height, card.parent) == (96, load_checkpoint(checkpoint).version)
