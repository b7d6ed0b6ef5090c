"""Words and examples for the OpenAPI document: a summary of each request, an example of each body and answer.

The examples are in a file, which `tests/make_examples.py` writes.
"""

import json
import re
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("examples.json")
FIRST_WORDS = re.compile(r"(.+?)(?:[.:;](?:\s|$)|$)", re.DOTALL)


def document_examples(document: dict[str, Any]) -> None:
    """Add to the OpenAPI document an example of each schema that has one."""
    schemas = document["components"]["schemas"]
    for name, example in json.loads(FILE.read_text(encoding="utf-8")).items():
        schemas[name]["examples"] = [example]


def document_summaries(document: dict[str, Any]) -> None:
    """Let the summary of each operation be the first words of its description."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["summary"] = first_words(operation["description"])


def first_words(text: str) -> str:
    """Return a text up to its first full stop, colon or semicolon.

    >>> first_words("Delete an item: row, embedding and crop are gone.")
    'Delete an item'
    >>> first_words("Rank the identities (or tracks) by 2.5 rules.")
    'Rank the identities (or tracks) by 2.5 rules'
    """
    found = FIRST_WORDS.match(text)
    return " ".join(found[1].split()) if found else text
