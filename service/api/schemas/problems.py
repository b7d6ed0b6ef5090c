"""Problem documents, as the API documents them."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Problem(BaseModel):
    """An error (RFC 9457); `code` is stable, and `detail` is written for people."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[dict[str, Any]] | None = None
