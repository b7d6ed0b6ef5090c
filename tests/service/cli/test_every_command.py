"""What holds for every command: it is documented, and prints JSON; filters are options of all that filter."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from service.cli.filters import OPTIONS
from service.cli.main import app
from service.client import Filters

PAGE = Path(__file__).parents[3] / "docs/reference/cli.md"
WITHOUT_JSON = {"serve", "retrain", "audit export"}
"""Commands that write a log, show what the training prints, or print rows of JSON anyway."""


def commands(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Return each command that is no group, with its words."""
    if hasattr(group, "commands"):
        for word, command in group.commands.items():
            yield from commands(command, f"{name} {word}".strip())
    else:
        yield name, group


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_documented_and_prints_json(name: str) -> None:
    assert f"| `reid {name}" in PAGE.read_text(encoding="utf-8")
    options = {option for one in COMMANDS[name].params for option in one.opts}
    assert ("--json" in options) == (name not in WITHOUT_JSON)


def test_each_filter_is_an_option_of_each_command_that_filters() -> None:
    assert set(OPTIONS) == set(Filters.__annotations__)
    filtering = [name for name, one in COMMANDS.items() if {p.name for p in one.params} >= set(OPTIONS)]
    assert sorted(filtering) == ["cameras", "export", "people list", "search"]
