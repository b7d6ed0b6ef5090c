"""Q: `--out=~/e` means the home folder, though bash hands the ~ on after an equals sign."""

from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from command_line import run
from live_server import crop, enroll
from training.options.command import command


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, which is not the folder that commands start in."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_q_an_export_goes_to_the_home_folder(client: httpx.Client, home: Path) -> None:
    enroll(client, crop(1))
    done = run(client, "export", "--out=~/e")
    assert done.exit_code == 0
    assert (home / "e" / "gallery.csv").exists()
    assert not list(Path.cwd().iterdir())


@dataclass
class SomeOptions:
    """Options of a command of training."""

    output: Path
    data: Path | None = None
    name: str = "~/name"


def test_q_every_path_of_a_training_command_may_begin_with_the_home_folder(home: Path) -> None:
    seen: list[SomeOptions] = []
    command(SomeOptions, seen.append)(output=Path("~/run"), data=Path("a/~"))
    assert seen == [SomeOptions(home / "run", Path("a/~"))]
