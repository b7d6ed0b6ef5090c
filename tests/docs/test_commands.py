"""The commands in README.md and docs/: each block is run in the order of its page, or says why it is not.

A block of `console`, `sh` or `bash` is run. One that cannot be run here has a comment before it:

    <!-- example: needs a GPU -->

One shell runs all blocks of a page, as a reader would, against a service that the page has for itself. A page
with `<!-- setup: people -->` begins with the drawn people in its folder and in its gallery. The service's URL
replaces the http://127.0.0.1:8000 of the pages. curl fails if a status is 400 or more.

`reid` is the installed program in README.md. In `docs/`, each `reid` is a fork that has loaded the libraries.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import draw_people
from forked_program import forked_program
from live_server import enroll, serve
from service.settings import Settings

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"<!-- example: [^>]+ -->\s*\Z")
WITH_PEOPLE = "<!-- setup: people -->"
RUN = ("console", "sh", "bash")
SHOWN = ("json", "text", "python", "toml", "csv", "math", "nginx")
URL_OF_PAGES = "http://127.0.0.1:8000"
LIMIT_S = 240
CHECKOUT = ("docs", "model", "service", "tests", "training")


@dataclass(frozen=True)
class Block:
    """A block of code in a page, and whether it is marked as an example that cannot be run here."""

    line: int
    language: str
    text: str
    is_example: bool

    def script(self) -> str:
        """Return the commands: of a console those after the prompt, with the lines that continue them."""
        if self.language != "console":
            return self.text
        lines = iter(self.text.splitlines())
        return "\n".join("\n".join(_command(line[2:], lines)) for line in lines if line.startswith("$ "))


def _command(line: str, following: Iterator[str]) -> list[str]:
    """Return a command with the lines of it that follow, each but the last of which ends in a backslash.

    >>> _command("ls \\\\", iter(["    -l", "total 0"]))
    ['ls \\\\', '    -l']
    """
    command = [line]
    while command[-1].endswith("\\"):
        command.append(next(following))
    return command


def find_blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page.

    >>> find_blocks("<!-- example: no GPU -->\\n```sh\\nls\\n```\\n")
    [Block(line=2, language='sh', text='ls\\n', is_example=True)]
    """
    return [
        Block(
            line=page.count("\n", 0, found.start()) + 1,
            language=found[2],
            text="".join(line.removeprefix(found[1]) for line in found[3].splitlines(keepends=True)),
            is_example=EXAMPLE.search(page, 0, found.start()) is not None,
        )
        for found in FENCE.finditer(page)
    ]


def to_run(path: Path) -> list[Block]:
    """Return the blocks of a page that are run."""
    blocks = find_blocks(path.read_text(encoding="utf-8"))
    return [block for block in blocks if block.language in RUN and not block.is_example]


def name_of(path: Path) -> str:
    """Return a page's path from the root of the project."""
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn people, in a folder."""
    folder = tmp_path_factory.mktemp("drawn") / "people"
    draw_people.main(folder)
    return folder


@pytest.fixture(scope="module")
def forking() -> Iterator[Path]:
    """A folder with a program `reid` whose commands are forks."""
    with forked_program() as folder:
        yield folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to run commands in that looks like the root of the project, and stays apart from it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in CHECKOUT:
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / ".curlrc").write_text("fail-with-body\n")
    return folder


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_each_block_says_what_it_is(path: Path) -> None:
    blocks = find_blocks(path.read_text(encoding="utf-8"))
    unknown = [f"line {b.line}: {b.language!r}" for b in blocks if b.language not in (*RUN, *SHOWN)]
    assert not unknown, f"{name_of(path)} has blocks in none of the languages {RUN + SHOWN}: {unknown}"
    empty = [b.line for b in blocks if b.language in RUN and not b.script().strip()]
    assert not empty, f"{name_of(path)} has blocks without a command, which begin with `$ ` in a console"


@pytest.mark.parametrize("path", [path for path in PAGES if to_run(path)], ids=name_of)
def test_the_commands_of_a_page_succeed(
    path: Path,
    folder: Path,
    people: Path,
    forking: Path,
    make_settings: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    data_dir = tmp_path / "data"
    programs = [Path(sys.executable).parent] if path == README else [forking, Path(sys.executable).parent]
    settings = Settings(data_dir=data_dir) if path == README else make_settings(data_dir)
    with serve(settings) as client:
        if WITH_PEOPLE in path.read_text(encoding="utf-8"):
            shutil.copytree(people, folder / "people")
            _enroll_people(client, people)
        url = str(client.base_url)
        said = _run(_script_of(path, url), folder, settings, url, programs)
    assert said.returncode == 0, f"{said.stdout[-6000:]}\nthe last block named above has failed"


def _script_of(path: Path, url: str) -> str:
    """Return all commands of a page, with a line before each block that says where it is."""
    parts = [f"echo '--- {name_of(path)}, line {block.line}'\n{block.script()}" for block in to_run(path)]
    return "\n".join(parts).replace(URL_OF_PAGES, url.rstrip("/"))


def _run(
    script: str, folder: Path, settings: Settings, url: str, programs: list[Path]
) -> subprocess.CompletedProcess[str]:
    """Run commands in a folder, with programs of some folders before those of the machine."""
    chosen = {
        "COLUMNS": "120",
        "CURL_HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "REID_DATA_DIR": str(settings.data_dir),
        "REID_URL": url,
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, **chosen},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def _enroll_people(client: httpx.Client, people: Path) -> None:
    with (people / "gallery.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            enroll(client, (people / row.pop("path")).read_bytes(), **row)
