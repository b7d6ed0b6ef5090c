"""The caller of a request: a key with its role and its cameras, or anybody if the gallery has no key."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

from model.data.names import normalise_name
from service.errors import CameraForbidden, RoleTooLow

Cameras = frozenset[str] | None
"""The cameras that a caller is limited to, in one Unicode form; None for no limit."""


class Role(StrEnum):
    """What a key allows. Each role also allows what the roles before it allow.

    A reader searches and reads. An operator also enrols and corrects; an undo takes a correction back. An
    admin also does what nothing takes back: deletes and erases people, and swaps networks.
    """

    reader = "reader"
    operator = "operator"
    admin = "admin"

    def allows(self, needed: "Role") -> bool:
        """Return whether this role allows what `needed` allows.

        >>> Role.operator.allows(Role.reader), Role.operator.allows(Role.admin)
        (True, False)
        """
        roles = list(Role)
        return roles.index(self) >= roles.index(needed)


@dataclass(frozen=True)
class Caller:
    """Who sends a request.

    Attributes:
        key_id: the id of the key; None for anybody, as long as the gallery has no key.
        name: the name of the key.
        role: what the caller may do.
        cameras: the cameras that the caller is limited to.
    """

    key_id: str | None
    name: str
    role: Role
    cameras: Cameras = None

    def require(self, role: Role) -> None:
        """Check the role of the caller.

        Raises:
            RoleTooLow: the caller needs a higher role.
        """
        if not self.role.allows(role):
            raise RoleTooLow(self.name, self.role, role)

    def require_all_cameras(self) -> None:
        """Check that the caller is not limited to some cameras.

        Raises:
            CameraForbidden: the caller is limited.
        """
        if self.cameras is not None:
            raise CameraForbidden(self.cameras, "all cameras")


ANYBODY = Caller(None, "anybody", Role.admin)
"""The caller of a gallery that has no key."""


_acting: ContextVar[Caller] = ContextVar("acting", default=ANYBODY)


@contextmanager
def acting(caller: Caller) -> Iterator[None]:
    """Let what is done in this context be done by a caller."""
    token = _acting.set(caller)
    try:
        yield
    finally:
        _acting.reset(token)


def acting_key_id() -> str | None:
    """Return the key of the caller by whom this is done, or None if there is no such key."""
    return _acting.get().key_id


def sees(cameras: Cameras, camera_id: str | None) -> bool:
    """Return whether a caller who is limited to some cameras sees an item of this camera.

    >>> sees(None, None), sees(frozenset({"door"}), "door"), sees(frozenset({"door"}), None)
    (True, True, False)
    """
    return cameras is None or (camera_id is not None and normalise_name(camera_id) in cameras)


def require_cameras(cameras: Cameras, camera_ids: Iterable[str | None]) -> None:
    """Check that a caller who is limited to some cameras may name these.

    Raises:
        CameraForbidden: one of them is not among `cameras`, or is unknown.
    """
    for camera_id in camera_ids:
        if cameras is not None and not sees(cameras, camera_id):
            what = "a crop without a camera" if camera_id is None else f"camera {camera_id[:100]!r}"
            raise CameraForbidden(cameras, what)
