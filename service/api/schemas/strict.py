"""The base class of request models: JSON bodies and query parameters."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A model that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid")

    def given(self) -> dict[str, Any]:
        """Return the fields that the request has sent, including those that it set to null."""
        return self.model_dump(exclude_unset=True)
