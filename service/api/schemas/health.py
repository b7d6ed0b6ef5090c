"""The answers of /livez and /readyz."""

from typing import Literal

from pydantic import BaseModel


class Status(BaseModel):
    """Whether the process is alive or ready, and if ready, what it serves."""

    status: Literal["alive", "ready"]
    model_version: str | None = None
    runtime: str | None = None
    num_items: int | None = None
