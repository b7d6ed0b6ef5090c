"""Encoded slashes: `%2F` in a path is part of the id of an identity, and not a separator.

A server decodes `%2F` before the path is routed, so `/identities/a%2Fb` would look like the two segments `a`
and `b`. `EncodedSlashes` therefore replaces each encoded slash by SUBSTITUTE before routing, and `IdentityId`
puts the slash back after routing. A server also replaces each byte that is not UTF-8 by U+FFFD, which would
make one id of two; so `EncodedSlashes` decodes the path itself.
"""

import re
from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import Path
from pydantic import AfterValidator
from starlette.types import ASGIApp, Receive, Scope, Send

SUBSTITUTE = "\x1f"
"""U+001F, a control character: no id may contain one."""

ENCODED_SLASH = re.compile(rb"%2f", re.IGNORECASE)
FORBIDDEN = re.compile(r"[\0\n\x1f\ud800-\udfff]")
"""NUL, which PostgreSQL refuses; a line break, which the patterns of routes let through at the end of a path;
SUBSTITUTE itself; and bytes that are not UTF-8."""

DEL = "\x7f"
"""Takes the place of a FORBIDDEN character. It is a control character too, so no id contains it, and the
answer is 404."""


class EncodedSlashes:
    """Decodes the path of a request again; each percent-encoded slash becomes SUBSTITUTE."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        raw: bytes = scope.get("raw_path", b"")
        if b"%" in raw:
            parts = (
                unquote_to_bytes(part).decode(errors="surrogateescape") for part in ENCODED_SLASH.split(raw)
            )
            scope["path"] = SUBSTITUTE.join(FORBIDDEN.sub(DEL, part) for part in parts)
        await self._app(scope, receive, send)


def restore_slashes(text: str) -> str:
    r"""Replace each SUBSTITUTE by a slash, in an id or in a message that quotes an id by its `repr`.

    >>> restore_slashes("a\x1fb"), restore_slashes("no identity " + repr("a\x1fb"))
    ('a/b', "no identity 'a/b'")
    """
    return text.replace(SUBSTITUTE, "/").replace(repr(SUBSTITUTE)[1:-1], "/")


IdentityId = Annotated[
    str,
    Path(description="The id, percent-encoded: a slash within the id is %2F."),
    AfterValidator(restore_slashes),
]
"""The id of an identity, as a segment of a path."""
