"""Lists that are returned a page at a time: the query parameters."""

from typing import Annotated

from pydantic import Field

from service.api.schemas.strict import StrictModel

MAX_LIMIT = 1000

Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="The largest number of entries to return.")]


class Page(StrictModel):
    """The query parameters of a list that is returned a page at a time."""

    limit: Limit = 100
    cursor: Annotated[
        str,
        Field(max_length=64, description="The next_cursor of the previous page; empty for the first page."),
    ] = ""
