"""Errors about who may use the API: no key, a wrong key, or a key that may not do this."""

from collections.abc import Collection

from service.errors.service_error import ServiceError

REALM = 'Bearer realm="reid-gallery"'


class AccessError(ServiceError):
    """The caller may not do this. Only subclasses are raised.

    Attributes:
        challenge: the header WWW-Authenticate of the answer (RFC 6750, section 3).
    """

    challenge = REALM


class KeyRequired(AccessError):
    """The request has no key."""

    code = "key_required"
    status = 401
    title = "Key required"


class KeyInvalid(AccessError):
    """The key of the request is wrong, was revoked or has expired; or nobody is signed in any more."""

    code = "key_invalid"
    status = 401
    title = "Key invalid"
    challenge = f'{REALM}, error="invalid_token"'


class RoleTooLow(AccessError):
    """The role of the key does not allow this request.

    Args:
        name: the name of the key.
        role: its role.
        needed: the least role that allows the request.
    """

    code = "role_too_low"
    status = 403
    title = "Role too low"
    challenge = f'{REALM}, error="insufficient_scope"'

    def __init__(self, name: str, role: str, needed: str) -> None:
        super().__init__(f"the key {name!r} has the role {role}, and this request needs {needed}")


class CameraForbidden(AccessError):
    """The request concerns cameras that the key is not for.

    Args:
        cameras: the cameras of the key.
        what: what the request asks for, such as "camera yard".
    """

    code = "camera_forbidden"
    status = 403
    title = "Camera forbidden"
    challenge = f'{REALM}, error="insufficient_scope"'

    def __init__(self, cameras: Collection[str], what: str) -> None:
        named = ", ".join(sorted(cameras))[:200]
        super().__init__(f"the request concerns {what}, and the key is limited to the cameras: {named}")


class KeyNotFound(ServiceError):
    """There is no key of this id or name."""

    code = "key_not_found"
    status = 404
    title = "Key not found"

    def __init__(self, named: str) -> None:
        super().__init__(f"there is no key {named[:100]!r}")


class KeyExists(ServiceError):
    """Another key has this name, or had it; the names in the audit must tell keys apart."""

    code = "key_exists"
    status = 409
    title = "Key exists"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is, or was, a key {name!r}, and no name is used twice; choose another name, or rotate it"
        )
