"""What the methods of the clients are made of: functions that describe a request, and send nothing.

`Client` and `AsyncClient` have each function as a method, which sends the request and returns the answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, Generic, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from service.client.errors import ClientError
from service.client.problems import read_answer

Result = TypeVar("Result")
Model = TypeVar("Model", bound=BaseModel)
Entry = TypeVar("Entry")

PAGE = 500


@dataclass(frozen=True)
class Call(Generic[Result]):
    """A request to the service.

    Attributes:
        method: the HTTP method.
        path: the path below the URL of the service.
        read: turns the response into the answer, or raises `Refused`.
        body: further arguments of `httpx.Client.request`, such as `params` and `files`.
        is_safe: whether to do it twice is as good as once, so that it may be sent again without an answer.
        is_done_once: whether the service does it once if it is sent twice with one `Idempotency-Key`.
        opened: files to close after the request.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], Result]
    body: Mapping[str, Any] = field(default_factory=dict)
    is_safe: bool = False
    is_done_once: bool = False
    opened: tuple[BinaryIO, ...] = ()


@dataclass(frozen=True)
class Pages(Generic[Entry]):
    """A list that the service returns a page at a time.

    Attributes:
        path: the path of the list.
        entries: the member of each page that has the entries.
        entry: the type of an entry.
        fields: the query parameters beside `limit` and `cursor`.
        limit: the most entries of a page.
    """

    path: str
    entries: str
    entry: type[Entry]
    fields: Mapping[str, Any]
    limit: int = PAGE

    def page(self, cursor: str) -> Call[tuple[list[Entry], str | None]]:
        """Describe the request for the page after a cursor, and "" for the first one."""
        params = {"limit": self.limit, **self.fields, "cursor": cursor}
        return Call("GET", self.path, self._read, {"params": params}, is_safe=True)

    def _read(self, response: httpx.Response) -> tuple[list[Entry], str | None]:
        page = read_answer(response)
        return [_checked(self.entry, one) for one in page[self.entries]], page["next_cursor"]


def reads(model: type[Model]) -> Callable[[httpx.Response], Model]:
    """Return a function that reads an answer as a model."""
    return partial(_read, model)


def nothing(response: httpx.Response) -> None:
    """Read an answer that has no body."""
    read_answer(response)


def _read(model: type[Model], response: httpx.Response) -> Model:
    return _checked(model, read_answer(response))


def _checked(model: type[Entry], value: Any) -> Entry:
    try:
        return model.model_validate(value)  # type: ignore[attr-defined,no-any-return]
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise ClientError(
            f"the answer of the service is no {model.__name__} ({place}: {fault['msg']}); "
            "use a client and a service of one version"
        ) from error
