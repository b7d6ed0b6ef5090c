"""The base class of every error that the service names."""

from typing import Any, ClassVar


class ServiceError(Exception):
    """Base of the errors that the service names; the message is written for the caller.

    Every subclass that is raised has its own `code`, `status` and `title`: a problem document is made from
    them. `code` is stable, unique, and has a heading in docs/troubleshooting.md. `status` is the HTTP status.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    retry_after_s: ClassVar[int] = 1
    """The header Retry-After of an answer with status 503."""

    def members(self) -> dict[str, Any]:
        """Return the members of the problem document that only this error has."""
        return {}
