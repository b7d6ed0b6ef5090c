"""Errors about identities and their corrections."""

from service.errors.service_error import ServiceError


class IdentityNotFound(ServiceError):
    """The gallery has no identity of this id."""

    code = "identity_not_found"
    status = 404
    title = "Identity not found"

    def __init__(self, identity_id: str, hint: str = "") -> None:
        super().__init__(f"the gallery has no identity {identity_id[:64]!r}{hint}")


class IdentityExists(ServiceError):
    """An identity of this id exists already."""

    code = "identity_exists"
    status = 409
    title = "Identity exists"

    def __init__(self, identity_id: str) -> None:
        super().__init__(f"identity {identity_id[:64]!r} exists already; PATCH it, or choose another id")


class OperationNotFound(ServiceError):
    """There is no operation of this id. The operations of an erased person are erased too."""

    code = "operation_not_found"
    status = 404
    title = "Operation not found"

    def __init__(self, operation_id: str) -> None:
        super().__init__(f"there is no operation {operation_id[:64]!r}")


class NothingHeld(ServiceError):
    """No expiry waits for a confirmation, or another one than the caller has seen."""

    code = "nothing_held"
    status = 409
    title = "No such expiry waits"

    def __init__(self, *, is_other: bool = False) -> None:
        super().__init__(
            "what waits has changed since it was looked at; look again with GET /retention"
            if is_other
            else "no expiry waits for a confirmation"
        )


class CannotUndo(ServiceError):
    """The operation cannot be undone; the message says which later change prevents the undo."""

    code = "cannot_undo"
    status = 409
    title = "Cannot undo"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the operation cannot be undone: {reason}")


class ItemElsewhere(ServiceError):
    """The item does not belong to the identity that the request names."""

    code = "item_elsewhere"
    status = 409
    title = "Item of another identity"

    def __init__(self, item_id: str, identity_id: str) -> None:
        super().__init__(
            f"item {item_id} does not belong to identity {identity_id[:64]!r}; nothing was changed"
        )


class TooManyIdentities(ServiceError):
    """The request would compare more identities with each other than is allowed at once."""

    code = "too_many_identities"
    status = 422
    title = "Too many identities"

    def __init__(self, num: int, most: int) -> None:
        hint = "narrow the filters, or set `of` to compare one identity with the others"
        super().__init__(
            f"{num:,} identities pass the filters, and at most {most:,} can be compared at once; {hint}"
        )


class SuggestionsBusy(ServiceError):
    """Other requests compare identities, one at a time, and this one has waited too long for its turn."""

    code = "suggestions_busy"
    status = 503
    title = "Suggestions busy"
    retry_after_s = 5

    def __init__(self) -> None:
        super().__init__("identities are being compared for other requests, one at a time; ask again")
