"""Q: what a command prints or writes is whole: no identity is cut, and no file is called what it is not."""

import subprocess
from pathlib import Path

import httpx
import pytest

from command_line import REID, ROOT, put, reid, run
from live_server import crop, enroll
from service.cli.terminal import TURNS, print_failures
from service.client import FailedCrop


def test_q_an_identity_is_not_cut_where_the_terminal_is_narrow(client: httpx.Client, tmp_path: Path) -> None:
    [item] = enroll(client, crop(1), camera_id="a-camera-with-a-long-name-above-the-northern-door")
    path = str(put(tmp_path / "a.jpg", crop(1)))
    env = {"COLUMNS": "80"}
    done = reid("search", path, "--url", str(client.base_url), env=env)
    assert "…" not in done.stdout
    rows = [line.split("│")[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    identity, camera = ("".join(row[place].strip() for row in rows) for place in (1, 5))
    assert (identity, camera) == (item["identity_id"], item["camera_id"])


def test_q_a_failure_is_one_line_whatever_the_name_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    print_failures([FailedCrop(Path("anna\nfailed: b\r.jpg"), "it is torn")])
    assert capsys.readouterr().err == "failed: anna?failed: b?.jpg: it is torn\n"


def test_q_a_name_cannot_turn_the_direction_of_a_line(client: httpx.Client, tmp_path: Path) -> None:
    enroll(client, crop(1), identity_id="anna\u202egpj", camera_id="\u2066door\u2069")
    done = run(client, "search", put(tmp_path / "a.jpg", crop(1)))
    assert "anna?gpj" in done.stdout
    assert "?door?" in done.stdout
    assert not TURNS.search(done.stdout + done.stderr)


@pytest.mark.parametrize("name", ["e.tar.gz", "e.TGZ", "e.zip", "e.tar.zst"])
def test_q_a_plain_tar_is_not_called_a_packed_one(client: httpx.Client, tmp_path: Path, name: str) -> None:
    enroll(client, crop(1))
    (tmp_path / "exports").mkdir()
    done = run(client, "export", "--format", "tar", "--out", tmp_path / "exports" / name)
    assert done.exit_code == 1
    assert "the export is a plain tar; let its name end with .tar" in done.stderr
    assert not list((tmp_path / "exports").iterdir())


def test_q_an_export_names_the_folder_that_is_not_there(client: httpx.Client, tmp_path: Path) -> None:
    enroll(client, crop(1))
    done = run(client, "export", "--out", tmp_path / "gone" / "e")
    assert done.exit_code == 1
    assert f"{tmp_path / 'gone'}: is no folder; make it first" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no file that is always full")
def test_q_output_that_finds_no_room_is_told(client: httpx.Client) -> None:
    command = [*REID, "models", "list", "--url", str(client.base_url)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=-1, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "the output, or a file, cannot be written: No space left on device\n"
