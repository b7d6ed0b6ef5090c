"""What the parts of the client have in common."""

from abc import ABC, abstractmethod
from typing import Any


class Sender(ABC):
    """A part of the client, which sends its requests by a method of the client."""

    @abstractmethod
    def _send(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """Send a request, and return the answer or raise a `ClientError`."""
