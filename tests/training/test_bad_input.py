"""Unusable input ends train.py with one clear line and a status other than zero."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from live_server import make_checkpoint
from market1501_people import write_people
from training import train
from training.recipes.named import tiny
from training_command import run_command


def write_dataset(root: Path, pids: range) -> Path:
    write_people(root / "bounding_box_train", pids, range(1, 3), 2)
    write_people(root / "query", range(21, 23), range(1, 2), 1)
    write_people(root / "bounding_box_test", range(21, 23), range(2, 3), 1)
    return root


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training split of four people with four images each."""
    return write_dataset(tmp_path_factory.mktemp("people"), range(1, 5))


@pytest.fixture
def refuse(people: Path, tmp_path: Path) -> Callable[..., str]:
    """Run train.py, which must fail, and return its one line of error."""

    def end(
        recipe: str = "tiny", data: Path = people, output: Path = tmp_path / "run", **options: Any
    ) -> str:
        with pytest.raises(SystemExit) as caught:
            train.main(recipe, [str(data)], output, **{"init": "none", "device": "cpu", **options})
        line = str(caught.value.code)
        assert line.startswith("train: ")
        assert "\n" not in line
        return line

    return end


def test_folders_without_people_are_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    assert "holds no known data set" in refuse(data=tmp_path)
    (tmp_path / "bounding_box_train").mkdir()
    assert "bounding_box_train holds no image" in refuse(data=tmp_path)


def test_one_identity_is_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    alone = write_dataset(tmp_path / "alone", range(1, 2))
    assert "too small for tiny: a batch takes 4 identities, the data have 1" in refuse(data=alone)


def test_more_images_than_any_identity_has_are_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(replace(tiny(), images_per_identity=5).to_json())
    assert "takes 5 images of an identity, and none has more than 4" in refuse(str(recipe))
    recipe.write_text(replace(tiny(), min_images_per_identity=5).to_json())
    assert "the data have 0" in refuse(str(recipe))
    recipe.write_text(replace(tiny(), num_held_out=4).to_json())
    assert "4 identities cannot be held out of 4" in refuse(str(recipe))


def test_a_wrong_checkpoint_is_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"torn")
    assert "torn.safetensors is truncated" in refuse(init=str(torn))
    assert "torn.safetensors is truncated" in refuse(teacher=torn)
    make_checkpoint(tmp_path / "another.safetensors")
    recipe = tmp_path / "recipe.json"
    recipe.write_text(replace(tiny(), height=128).to_json())
    line = refuse(str(recipe), init=str(tmp_path / "another.safetensors"))
    assert "relation weights depend on the grid: 4 x 2 places in it, 8 x 2 in this run; give --resize" in line
    assert "cannot be read" in refuse(init=str(tmp_path / "absent.pth"))
    assert "no ONNX or OpenVINO IR network" in refuse(teacher=tmp_path / "absent.onnx")


def test_a_state_dict_that_would_run_code_is_refused_in_one_line(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pth")
    line = refuse(init=str(tmp_path / "bomb.pth"))
    assert f"{tmp_path}/bomb.pth is refused: unpickling it would run " in line
    assert not (tmp_path / "exploded").exists()


def test_options_that_contradict_each_other_are_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    assert "give --teacher or --teacher-embeddings" in refuse(
        teacher=tmp_path / "a.onnx", teacher_embeddings=tmp_path / "b.npz"
    )
    assert "--teacher-channels is bgr or rgb" in refuse(teacher_channels="grb")
    assert "--device is auto, cpu or cuda, not tpu" in refuse(device="tpu")


def test_an_output_that_cannot_be_written_is_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = refuse(output=tmp_path / "file" / "run")
    assert "file/run cannot be written (Not a directory): make room there, or give another --output" in line
    assert "file cannot be written" in refuse(output=tmp_path / "file")


def test_a_damaged_crop_is_named_without_the_workers_traceback(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    torn = write_dataset(tmp_path / "torn", range(1, 5))
    (torn / "bounding_box_train" / "0002_c1s1_000000_00.jpg").write_bytes(b"\xff\xd8 torn")
    for workers in (0, 1):
        line = refuse(data=torn, output=tmp_path / str(workers), workers=workers)
        assert line.startswith(f"train: {torn}")
        assert "0002_c1s1_000000_00.jpg cannot be read as an image" in line


def test_a_full_disk_ends_the_command_with_a_line_and_a_status(people: Path, tmp_path: Path) -> None:
    options = ["--recipe", "tiny", "--data", people, "--output", tmp_path / "run", "--init", "none"]
    options += ["--device", "cpu", "--workers", "0"]
    ended = run_command("train", *options, folder=tmp_path, max_file_bytes=20_000)
    assert ended.returncode == 1
    expected = f"train: {tmp_path}/run cannot be written (File too large): make room there"
    assert ended.stderr.strip().splitlines()[-1].startswith(expected)
    assert "Traceback" not in ended.stderr
    left = {path.name for path in (tmp_path / "run").iterdir() if path.suffix != ".jsonl"}
    assert left == {
        "recipe.json",
        "environment.json",
        "tensorboard",
    }  # neither a partial state nor a temporary file
