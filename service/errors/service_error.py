"""The base class of the errors of the service."""

from typing import Any, ClassVar


class ServiceError(Exception):
    """An error whose message is written for the caller of the API, or for the operator.

    Every subclass that is raised has its own `code`, `status` and `title`, which appear in the problem
    document. `code` never changes, is unique, and has a heading in docs/troubleshooting.md. `status` is the
    HTTP status.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    retry_after_s: int = 1
    """The header Retry-After of an answer with status 429 or 503."""

    def members(self) -> dict[str, Any]:
        """Return the extra members of the problem document, besides those that every error has."""
        return {}
