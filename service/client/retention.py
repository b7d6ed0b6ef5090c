"""The requests of the client about retention."""

from typing import cast

from service.client.answers import ConfirmationAnswer, RetentionAnswer
from service.client.sender import Sender


class RetentionRequests(Sender):
    """The part of the client that asks about retention."""

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
