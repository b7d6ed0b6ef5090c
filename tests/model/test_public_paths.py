"""Every public function of model/ and training/ that takes a path also takes the path as text."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_type_hints

import pytest
from typer import Option
from typer.models import ParameterInfo

import model
import training

Function = Callable[..., Any]


def public_functions(package: Any) -> Iterator[Function]:
    """Yield the functions and methods of a package whose names do not begin with an underscore.

    An ``__init__`` that `dataclass` generates is left out, because a record keeps its paths as they are.
    """
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for name, member in vars(importlib.import_module(module.name)).items():
            if name.startswith("_") or getattr(member, "__module__", "") != module.name:
                continue
            members = {name: member, **vars(member)} if inspect.isclass(member) else {name: member}
            for key, one in members.items():
                function = inspect.unwrap(getattr(one, "__func__", one))
                if not inspect.isfunction(function) or function.__module__ != module.name:
                    continue
                is_generated = function.__code__.co_filename == "<string>"
                if not is_generated and (key == "__init__" or not key.startswith("_")):
                    yield function


def path_parameters(function: Function) -> list[str]:
    """Return the parameters that take a Path and refuse text.

    Options of a command are left out, because typer makes the Path of an option from text.
    """
    hints = get_type_hints(function, include_extras=True)
    hints.pop("return", None)
    return [
        name
        for name, hint in hints.items()
        if not any(isinstance(extra, ParameterInfo) for extra in getattr(hint, "__metadata__", ()))
        and (hint is Path or isinstance(hint, UnionType))
        and Path in (hint, *get_args(hint))
        and str not in get_args(hint)
    ]


@pytest.mark.parametrize("package", [model, training], ids=["model", "training"])
def test_no_public_function_refuses_a_path_as_text(package: Any) -> None:
    found = list(public_functions(package))
    assert len(found) > 50
    faults = {f"{one.__module__}.{one.__qualname__}": path_parameters(one) for one in found}
    assert {name: parameters for name, parameters in faults.items() if parameters} == {}


def test_a_path_alone_is_found_and_an_option_is_not() -> None:
    def takes(path: Path, folder: Path | None, file: str | Path, option: Annotated[Path, Option()]) -> Path:
        raise NotImplementedError(path, folder, file, option)

    assert path_parameters(takes) == ["path", "folder"]
