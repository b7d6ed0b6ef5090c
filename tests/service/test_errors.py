"""Every error has a code, a status and a title of its own."""

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus

import pytest

import service
from service.api.problems import HTTP_CODES
from service.errors import ServiceError


def subclasses(error: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for subclass in error.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def raised_errors() -> list[type[ServiceError]]:
    """Return every class of error that is raised: those that have no subclasses, and ServiceError itself."""
    for module in pkgutil.walk_packages(service.__path__, "service."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return [ServiceError, *(error for error in subclasses(ServiceError) if not error.__subclasses__())]


@pytest.mark.parametrize("error", raised_errors(), ids=lambda error: error.__name__)
def test_an_error_has_its_own_code_status_and_title(error: type[ServiceError]) -> None:
    assert {"code", "status", "title"} <= vars(error).keys()
    assert 400 <= HTTPStatus(error.status) <= 599
    assert error.title == error.title.capitalize() or "Idempotency-Key" in error.title


def test_a_code_belongs_to_one_error_alone() -> None:
    codes = Counter([error.code for error in raised_errors()] + list(HTTP_CODES.values()))
    assert [code for code, number in codes.items() if number > 1] == []
