"""Errors in a request itself: its fields, images, archive or Idempotency-Key."""

from dataclasses import asdict, dataclass
from typing import Any

from service.errors.service_error import ServiceError

NUM_SUMMARISED = 3
"""Faults that the message of an invalid request names; its `errors` have them all."""


@dataclass(frozen=True)
class Fault:
    """One fault of a request, as pydantic describes faults.

    Attributes:
        loc: the place: `body`, `query` or `header`, and the name of the field within.
        msg: the reason, fit to follow the name of the field and a colon.
        type: the kind of fault.
    """

    loc: tuple[str | int, ...]
    msg: str
    type: str = "value_error"


class InvalidRequest(ServiceError):
    """A field is missing, malformed or contradicts another.

    Args:
        faults: the faults, at least one.
        detail: the message; by default the first faults, each with the name of its field.
    """

    code = "invalid_request"
    status = 422
    title = "Invalid request"

    def __init__(self, *faults: Fault, detail: str | None = None) -> None:
        summary = (f"{'.'.join(map(str, fault.loc[1:]))}: {fault.msg}" for fault in faults[:NUM_SUMMARISED])
        super().__init__(detail or "; ".join(summary))
        self.faults = faults

    def members(self) -> dict[str, Any]:
        """Return the faults."""
        return {"errors": [asdict(fault) for fault in self.faults]}


class ImageError(ServiceError):
    """A posted image is refused; always raised as one of its subclasses.

    Args:
        detail: why the image is refused.
        position: of the image in its form field, from 0.
    """

    def __init__(self, detail: str, position: int = 0) -> None:
        super().__init__(detail, position)
        self.detail = detail
        self.position = position
        self.field = "images"

    def __str__(self) -> str:
        """Return the image's place in the form and why the image is refused."""
        return f"{self.field}[{self.position}]: {self.detail}"

    def members(self) -> dict[str, Any]:
        """Return the position of the image, and the same as a fault of its field."""
        fault = Fault(("body", self.field, self.position), self.detail, self.code)
        return {"position": self.position, "errors": [asdict(fault)]}


class UnreadableImage(ImageError):
    """The bytes are not a whole JPEG, PNG, WebP or BMP image."""

    code = "unreadable_image"
    status = 415
    title = "Unreadable image"


class ImageTooLarge(ImageError):
    """The image has more bytes or pixels than allowed."""

    code = "image_too_large"
    status = 413
    title = "Image too large"


class CropTooSmall(ImageError):
    """The image has too few pixels a side to recognise anyone."""

    code = "crop_too_small"
    status = 422
    title = "Crop too small"


class DecodingBusy(ServiceError):
    """The process has no memory free to decode the images of this request."""

    code = "decoding_busy"
    status = 503
    title = "Decoding busy"

    def __init__(self) -> None:
        super().__init__("too many images are being decoded, and memory is short; send the request again")


class ClientGone(ServiceError):
    """The client has closed its connection, so its request was dropped; nobody reads this answer."""

    code = "client_gone"
    status = 408
    title = "Client gone"

    def __init__(self) -> None:
        super().__init__("the client closed the connection before the answer; nothing was changed")


class BadArchive(ServiceError):
    """A tar or zip is torn, hostile or too large; nothing of it is stored."""

    code = "bad_archive"
    status = 422
    title = "Bad archive"


class IdempotencyMismatch(ServiceError):
    """The Idempotency-Key was used for another request before."""

    code = "idempotency_mismatch"
    status = 422
    title = "Idempotency-Key of another request"

    def __init__(self) -> None:
        super().__init__(
            "this Idempotency-Key was used for another request in the last 24 hours; take a new one"
        )


class IdempotencyInProgress(ServiceError):
    """The first request with this Idempotency-Key has not been answered yet."""

    code = "idempotency_in_progress"
    status = 409
    title = "Request in progress"

    def __init__(self) -> None:
        super().__init__("the first request with this Idempotency-Key is being answered; try again soon")
