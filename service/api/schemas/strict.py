"""The base class of request models: JSON bodies and query parameters."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

MAX_FIELDS = 100
"""No request has as many fields. A fault for each of 90,000 unknown ones would take half a second."""


class StrictModel(BaseModel):
    """A model that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _count_fields(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > MAX_FIELDS:
            raise ValueError(f"there are {len(data):,} fields, more than any request has")
        return data

    def given(self) -> dict[str, Any]:
        """Return the fields that the request has sent, including those that it set to null."""
        return self.model_dump(exclude_unset=True)
