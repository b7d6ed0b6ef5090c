"""Texts and names in a card, as a database and an answer can hold them."""

import re
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

MAX_TEXT = 1_000
"""Characters of a description, such as the recipe."""

MAX_NAME = 64

STRICT = ConfigDict(extra="forbid", strict=True)
"""How pydantic reads an object of a card: no field that is not known, and no value of another type."""

_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and halves of surrogate pairs, which neither a database nor an answer can hold."""


def _check_text(text: str) -> str:
    if _UNFIT.search(text):
        raise ValueError("must be text without control characters and lone surrogates")
    return text


def to_text(text: str) -> str:
    """Return a text, such as the name of a file, as a card can hold it.

    >>> to_text("network" + chr(10) + ".onnx")
    'network?.onnx'
    """
    return _UNFIT.sub("?", text)[:MAX_TEXT]


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_check_text)]
Name = Annotated[str, Field(max_length=MAX_NAME), AfterValidator(_check_text)]
