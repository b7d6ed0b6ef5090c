"""The options of the commands that filter items as a search does: the one definition of them."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, cast

import typer

from service.client import Filters

Names = list[str] | None


def _names(help_text: str) -> Any:
    return Annotated[Names, typer.Option(help=f"{help_text}; may repeat.")]


def _one(kind: Any, help_text: str) -> Any:
    return Annotated[kind | None, typer.Option(help=help_text)]


OPTIONS: dict[str, Any] = {
    "identity_id": _names("Only this identity"),
    "exclude_identity_id": _names("Not this identity"),
    "camera_id": _names("Only this camera"),
    "exclude_camera_id": _names("Not this camera"),
    "track_id": _names("Only this track"),
    "exclude_track_id": _names("Not this track"),
    "attribute": _names("Only people with this name=value"),
    "attribute_at_least": _names("Only people whose attribute is this name=number or more"),
    "attribute_at_most": _names("Only people whose attribute is this name=number or less"),
    "captured_after": _one(str, "Captured at this RFC 3339 time or later."),
    "captured_before": _one(str, "Captured before this RFC 3339 time."),
    "exclude_same_camera_s": _one(
        float, "Nothing that --query-camera-id saw within so many seconds of --query-captured-at."
    ),
    "query_camera_id": _one(str, "The camera of the query."),
    "query_captured_at": _one(str, "The RFC 3339 time of the query."),
}
"""Each filter of the API, and its option."""


def takes_filters(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each filter. Its parameter `filters` gets those that are given."""

    @wraps(command)
    def run(**values: Any) -> None:
        filters = {name: values.pop(name) for name in OPTIONS}
        given = {name: value for name, value in filters.items() if value}
        command(**values, filters=cast("Filters", given))

    signature = inspect.signature(command, eval_str=True)
    own = [one for one in signature.parameters.values() if one.name != "filters"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in OPTIONS.items()
    ]
    run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    return run
