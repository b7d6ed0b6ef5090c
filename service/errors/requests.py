"""Errors in a request: in its fields, images, archive or Idempotency-Key."""

from dataclasses import asdict, dataclass
from typing import Any

from service.errors.service_error import ServiceError

NUM_SUMMARISED = 3
"""The most faults in the message of an invalid request."""

MAX_FAULTS = 100
"""The most faults in the member `errors` of an answer; one more says how many there are."""


def reason_of(message: str) -> str:
    """Return the message of a validation without the words that pydantic puts before our own messages."""
    return message.removeprefix("Value error, ")


@dataclass(frozen=True)
class Fault:
    """One fault of a request, with the same fields as an error of pydantic.

    Attributes:
        loc: the location of the fault: `body`, `query` or `header`, then the name of the field.
        msg: the reason, which follows the name of the field and a colon.
        type: the kind of the fault.
    """

    loc: tuple[str | int, ...]
    msg: str
    type: str = "value_error"


class InvalidRequest(ServiceError):
    """A field is missing, malformed or contradicts another.

    Args:
        faults: the faults, at least one.
        detail: the message; by default the names of the first faulty fields, each with its reason.
    """

    code = "invalid_request"
    status = 422
    title = "Invalid request"

    def __init__(self, *faults: Fault, detail: str | None = None) -> None:
        if len(faults) > MAX_FAULTS:
            more = Fault(faults[0].loc[:1], f"there are {len(faults):,} faults; the first are listed")
            faults = (*faults[: MAX_FAULTS - 1], more)
        summary = (f"{'.'.join(map(str, fault.loc[1:]))}: {fault.msg}" for fault in faults[:NUM_SUMMARISED])
        super().__init__(detail or "; ".join(summary))
        self.faults = faults

    def members(self) -> dict[str, Any]:
        """Return the first faults."""
        return {"errors": [asdict(fault) for fault in self.faults[:MAX_FAULTS]]}


class UnknownHost(ServiceError):
    """The header Host names a host that this service does not have.

    Args:
        host: the header.
    """

    code = "unknown_host"
    status = 421
    title = "Unknown host"

    def __init__(self, host: str) -> None:
        super().__init__(
            f"this service is not {host[:100]!r}; the administrator can add the name to REID_ALLOWED_HOSTS"
        )


class ForeignOrigin(ServiceError):
    """A page of another origin sent a request that changes something."""

    code = "foreign_origin"
    status = 403
    title = "Foreign origin"

    def __init__(self) -> None:
        super().__init__(
            "the request comes from a page of another origin; the administrator can name that origin in "
            "REID_CORS_ORIGINS"
        )


class CropRefused(ServiceError):
    """One crop of a request cannot be enrolled; an import enrols the others. Only subclasses are raised.

    Attributes:
        position: the position of the crop in the request, from 0.
    """

    position: int

    def members(self) -> dict[str, Any]:
        """Return the position of the crop."""
        return {"position": self.position}


class ImageError(CropRefused):
    """A posted image is refused. Only subclasses are raised.

    Args:
        detail: why the image is refused.
        position: the position of the image in its form field, from 0.
    """

    def __init__(self, detail: str, position: int = 0) -> None:
        super().__init__(detail, position)
        self.detail = detail
        self.position = position
        self.field = "images"

    def __str__(self) -> str:
        """Return the form field and position of the image, and why the image is refused."""
        return f"{self.field}[{self.position}]: {self.detail}"

    def members(self) -> dict[str, Any]:
        """Return the position of the image, and the fault of its form field."""
        fault = Fault(("body", self.field, self.position), self.detail, self.code)
        return {"position": self.position, "errors": [asdict(fault)]}


class UnreadableImage(ImageError):
    """The bytes are not a complete JPEG, PNG, WebP or BMP image."""

    code = "unreadable_image"
    status = 415
    title = "Unreadable image"


class ImageTooLarge(ImageError):
    """The image has more bytes or pixels than allowed."""

    code = "image_too_large"
    status = 413
    title = "Image too large"


class CropTooSmall(ImageError):
    """The shorter side of the image has too few pixels to recognise a person."""

    code = "crop_too_small"
    status = 422
    title = "Crop too small"


class Overloaded(ServiceError):
    """The service has as many requests of this class as it can answer in time."""

    code = "overloaded"
    status = 503
    title = "Overloaded"

    def __init__(self) -> None:
        super().__init__("the service has as many requests as it can answer in time; send the request again")


class RateLimited(ServiceError):
    """Too many requests came from one address, or with one key.

    Args:
        name: "address" or "key".
        per_minute: how many requests may come a minute.
        retry_after_s: the seconds after which the next one may come.
    """

    code = "rate_limited"
    status = 429
    title = "Rate limited"

    def __init__(self, name: str, per_minute: int, retry_after_s: int) -> None:
        super().__init__(
            f"more than {per_minute:,} requests a minute come from one {name}; send the request again in "
            f"{retry_after_s} s, or ask the administrator to raise REID_RATE_PER_{name.upper()}"
        )
        self.retry_after_s = retry_after_s


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
    """A tar or zip is damaged, too large, or has a forbidden member. Nothing of the archive is stored."""

    code = "bad_archive"
    status = 422
    title = "Bad archive"


class IdempotencyMismatch(ServiceError):
    """The Idempotency-Key was used for another request."""

    code = "idempotency_mismatch"
    status = 422
    title = "Idempotency-Key of another request"

    def __init__(self) -> None:
        super().__init__(
            "this Idempotency-Key was used for another request in the last 24 hours; use a new key"
        )


class IdempotencyInProgress(ServiceError):
    """The first request with this Idempotency-Key has not been answered yet."""

    code = "idempotency_in_progress"
    status = 409
    title = "Request in progress"

    def __init__(self) -> None:
        super().__init__("the first request with this Idempotency-Key is still running; try again soon")
