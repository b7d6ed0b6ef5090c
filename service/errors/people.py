"""Errors about identities and their corrections."""

from service.errors.service_error import ServiceError


class IdentityNotFound(ServiceError):
    """The gallery has no identity of this id."""

    code = "identity_not_found"
    status = 404
    title = "Identity not found"

    def __init__(self, identity_id: str, more: str = "") -> None:
        super().__init__(f"the gallery has no identity {identity_id[:64]!r}{more}")


class IdentityExists(ServiceError):
    """There is an identity of this id already."""

    code = "identity_exists"
    status = 409
    title = "Identity exists"

    def __init__(self, identity_id: str) -> None:
        super().__init__(f"there is an identity {identity_id[:64]!r} already; PATCH it, or choose another id")


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
        super().__init__(f"item {item_id} is not of identity {identity_id[:64]!r}; nothing was changed")


class TooManyIdentities(ServiceError):
    """The request would compare more identities with each other than is allowed at once."""

    code = "too_many_identities"
    status = 422
    title = "Too many identities"

    def __init__(self, num: int, most: int) -> None:
        hint = "narrow them by a filter, or ask for the pairs of one identity with `of`"
        super().__init__(f"{num:,} identities are more than the {most:,} that are compared at once; {hint}")
