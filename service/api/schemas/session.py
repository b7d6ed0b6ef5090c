"""Signing in on the page."""

from typing import Annotated

from pydantic import BaseModel, Field

from service.api.schemas.strict import StrictModel
from service.keys.callers import Caller, Role


class SignInOrder(StrictModel):
    """The key to sign in with."""

    key: Annotated[str, Field(min_length=1, max_length=255)]


class SessionAnswer(BaseModel):
    """Who sends this request.

    `is_open` tells that the gallery has no key, so that everybody on this machine may do everything.
    `cameras` is null unless the key is limited to some cameras.
    """

    request_id: str
    is_open: bool
    name: str
    role: Role
    cameras: list[str] | None

    @classmethod
    def of(cls, caller: Caller, request_id: str) -> "SessionAnswer":
        """Return the answer about a caller."""
        return cls(
            request_id=request_id,
            is_open=caller.key_id is None,
            name=caller.name,
            role=caller.role,
            cameras=None if caller.cameras is None else sorted(caller.cameras),
        )
