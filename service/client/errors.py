"""Errors of the client. Every message is a sentence that can be shown to a user."""


class ClientError(Exception):
    """A request to the service did not succeed."""


class ServiceUnreachable(ClientError):
    """No connection to the service could be made: nothing listens there, or the URL is not one."""


class NoAnswer(ClientError):
    """The connection broke or timed out after the request was sent; the service may have carried it out."""


class Refused(ClientError):
    """The service answered with an error.

    Attributes:
        status: the HTTP status.
        code: the error code of the service, such as "unreadable_image"; empty if the answer has none.
        position: which image of the request is at fault, counted from 0; None if the answer names none.
    """

    def __init__(self, status: int, detail: str, position: int | None, code: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.position = position
