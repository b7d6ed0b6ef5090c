"""The requests of the client about retention."""

from abc import ABC, abstractmethod
from typing import Any, cast

from service.client.answers import ConfirmationAnswer, RetentionAnswer


class RetentionRequests(ABC):
    """The part of the client that asks about retention."""

    @abstractmethod
    def _send(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """Send a request, and return the answer or raise a `ClientError`."""

    def get_retention(self) -> RetentionAnswer:
        """Read how long items are kept, and which expiry waits for a confirmation."""
        return cast("RetentionAnswer", self._send("GET", "/retention"))

    def confirm_expiry(self, as_of: str) -> ConfirmationAnswer:
        """Let an expiry go on that waits.

        Args:
            as_of: of the expiry that waits, as `get_retention` returned it.

        Raises:
            Refused: no expiry waits (code "nothing_held"), or another one than at that time.
        """
        return cast("ConfirmationAnswer", self._send("POST", "/retention/confirm", json={"as_of": as_of}))
