"""Make a command line of a dataclass of options, and end a command with one line on an expected error."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from model.errors import ModelError
from model.files import from_home
from training.data.datasets import DatasetError
from training.engine.errors import TrainingError
from training.reports.attention_maps import VisualizeError
from training.weights.deployment import DeployError
from training.weights.foreign import EmbeddingsError
from training.weights.initial import InitialWeightsError

Fields = ParamSpec("Fields")
Options = TypeVar("Options")

EXPECTED_ERRORS = (
    DatasetError,
    DeployError,
    EmbeddingsError,
    InitialWeightsError,
    ModelError,
    TrainingError,
    VisualizeError,
)
"""Errors whose message says what is wrong and what to do, so that a traceback adds nothing."""


def command(options: Callable[Fields, Options], body: Callable[[Options], None]) -> Callable[Fields, None]:
    """Make a function for `typer.run` that takes the fields of a dataclass and calls ``body`` with one.

    A path may begin with `~/`.

    Args:
        options: a dataclass whose fields are annotated with typer's options and arguments.
        body: the command; its docstring is the command's help.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Greeting:
    ...     name: str
    ...     mark: str = "!"
    >>> greet = command(Greeting, lambda greeting: print(greeting.name + greeting.mark))
    >>> greet("Anna", mark="?")
    Anna?
    """

    def main(*args: Fields.args, **kwargs: Fields.kwargs) -> None:
        for name, value in kwargs.items():
            if isinstance(value, Path):
                kwargs[name] = from_home(value)
        body(options(*args, **kwargs))

    main.__doc__ = body.__doc__
    main.__signature__ = inspect.signature(options)  # type: ignore[attr-defined]  # what typer reads
    return main


@contextmanager
def exit_on_error(place: str, *others: type[Exception]) -> Iterator[None]:
    """End the process with ``PLACE: MESSAGE`` and status 1 on an expected error, or on one of ``others``.

    Raises:
        SystemExit: the body of the ``with`` statement raised one of these errors.
    """
    expected: tuple[type[Exception], ...] = (*EXPECTED_ERRORS, *others)
    try:
        yield
    except expected as error:
        raise SystemExit(f"{place}: {error}") from error
