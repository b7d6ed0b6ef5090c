"""Keys: make, list, rotate and revoke them, and find the caller of a request by one.

A key is `reid_`, an id of 12 hex digits, `_`, and 64 random hex digits. Scanners for secrets recognise this
form. Only the SHA-256 of a key is stored: it has 256 random bits, so a slow hash would protect nothing more.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from model.data.names import normalise_name
from service.errors import InvalidRequest, KeyExists, KeyInvalid, KeyNotFound
from service.errors.requests import Fault
from service.keys.callers import Caller, Role
from service.store.key_tables import Key, SignIn
from service.store.store import Store

FORM = re.compile(r"reid_(?P<id>[0-9a-f]{12})_[0-9a-f]{64}")
NOBODY_HAS_IT = "0" * 64
MAX_NAME = 255
MAX_CAMERAS = 1000


def hash_of(secret: str) -> str:
    """Return the SHA-256 of a key or of the token of a browser, in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def has_keys(session: Session) -> bool:
    """Return whether the gallery has a key, or had one."""
    return session.scalar(select(Key.id).limit(1)) is not None


def create_key(
    store: Store,
    name: str,
    role: Role,
    cameras: Collection[str] | None = None,
    expires_at: datetime | None = None,
) -> tuple[Key, str]:
    """Make a key.

    Args:
        store: the gallery.
        name: what people call the key; no other key has, or had, the name.
        role: what the key allows.
        cameras: the cameras that the key is limited to; None for all.
        expires_at: from when on the key is refused; None for never.

    Returns:
        The row, and the key itself, which nobody can show again.

    Raises:
        KeyExists: another key has this name.
        InvalidRequest: the name or the cameras cannot be used.
    """
    name = _checked("name", name)
    limited = None if cameras is None else sorted({_checked("cameras", camera) for camera in cameras})
    if limited is not None and not 0 < len(limited) <= MAX_CAMERAS:
        raise InvalidRequest(Fault(("body", "cameras"), f"name 1 to {MAX_CAMERAS} cameras"))
    if limited is not None and role is Role.admin:
        reason = "an admin is not limited to cameras, because erasing people concerns all cameras"
        raise InvalidRequest(Fault(("body", "cameras"), reason))
    key_id, secret = _new_secret()
    row = Key(
        id=key_id,
        name=name,
        role=role,
        cameras=limited,
        sha256=hash_of(secret),
        created_at=store.clock.now(),
        expires_at=expires_at,
    )
    with store.write() as session:
        if session.scalar(select(Key.id).where(Key.name == name)) is not None:
            raise KeyExists(name)
        session.add(row)
    return row, secret


def list_keys(store: Store) -> list[Key]:
    """Return all keys, also those that were revoked or have expired, the oldest first."""
    with store.read() as session:
        return list(session.scalars(select(Key).order_by(Key.created_at, Key.id)))


def revoke_key(store: Store, named: str) -> Key:
    """Refuse a key from now on, and sign its browsers out.

    Args:
        store: the gallery.
        named: the id or the name of the key.

    Raises:
        KeyNotFound: there is no such key.
    """
    with store.write() as session:
        row = _find(session, named)
        row.revoked_at = row.revoked_at or store.clock.now()
        _sign_out(session, row.id)
    return row


def rotate_key(store: Store, named: str) -> tuple[Key, str]:
    """Give a key a new secret, and sign its browsers out. The old secret is refused from now on.

    Raises:
        KeyNotFound: there is no such key.
        KeyInvalid: the key was revoked.
    """
    with store.write() as session:
        row = _find(session, named)
        if row.revoked_at is not None:
            raise KeyInvalid(f"the key {row.name!r} was revoked; create another one")
        _, secret = _new_secret(row.id)
        row.sha256 = hash_of(secret)
        _sign_out(session, row.id)
    return row, secret


def find_caller(store: Store, presented: str) -> Caller:
    """Return the caller who presents a key.

    Raises:
        KeyInvalid: the key is wrong, was revoked or has expired.
    """
    with store.read() as session:
        return caller_in(session, presented, store.clock.now())


def caller_in(session: Session, presented: str, moment: datetime, *, until_commit: bool = False) -> Caller:
    """Return the caller who presents a key.

    Args:
        session: reads the key.
        presented: the key.
        moment: the time for which the key must be valid.
        until_commit: whether nobody may rotate or revoke the key before this transaction ends.

    Raises:
        KeyInvalid: the key is wrong, was revoked or has expired.
    """
    form = FORM.fullmatch(presented)
    row = None if form is None else session.get(Key, form["id"], with_for_update=until_commit)
    is_right = hmac.compare_digest(NOBODY_HAS_IT if row is None else row.sha256, hash_of(presented))
    if row is None or not is_right:
        raise KeyInvalid("the key is not one of this service, or was rotated")
    return caller_of(row, moment)


def caller_of(row: Key, moment: datetime) -> Caller:
    """Return the caller to whom a key belongs.

    Raises:
        KeyInvalid: the key was revoked or has expired.
    """
    if row.revoked_at is not None:
        raise KeyInvalid(f"the key {row.name!r} was revoked")
    if row.expires_at is not None and row.expires_at <= moment:
        raise KeyInvalid(f"the key {row.name!r} has expired")
    cameras = None if row.cameras is None else frozenset(row.cameras)
    return Caller(row.id, row.name, Role(row.role), cameras)


def note_uses(store: Store, used: dict[str, datetime]) -> None:
    """Store when keys were used last, by their ids."""
    if used:
        with store.write() as session:
            for key_id, moment in used.items():
                session.execute(update(Key).where(Key.id == key_id).values(last_used_at=moment))


def expiry_after(text: str, moment: datetime) -> datetime:
    """Return the moment so many days, hours or minutes after another.

    >>> expiry_after("90d", datetime(2026, 1, 1))
    datetime.datetime(2026, 4, 1, 0, 0)

    Raises:
        InvalidRequest: `text` is not a number with d, h or m behind it.
    """
    found = re.fullmatch(r"(\d{1,5})([dhm])", text.strip())
    if found is None or int(found[1]) == 0:
        raise InvalidRequest(Fault(("body", "expires"), "write a number of days, hours or minutes: 90d, 12h"))
    unit = {"d": "days", "h": "hours", "m": "minutes"}[found[2]]
    return moment + timedelta(**{unit: int(found[1])})


def _new_secret(key_id: str | None = None) -> tuple[str, str]:
    key_id = key_id or secrets.token_hex(6)
    return key_id, f"reid_{key_id}_{secrets.token_hex(32)}"


def _checked(field: str, name: str) -> str:
    """Return a name in one Unicode form.

    Raises:
        InvalidRequest: it is empty, too long, or has characters that no terminal prints.
    """
    stripped = name.strip()
    if not 0 < len(stripped) <= MAX_NAME or not stripped.isprintable():
        raise InvalidRequest(Fault(("body", field), f"write 1 to {MAX_NAME} printable characters"))
    return normalise_name(stripped)


def _find(session: Session, named: str) -> Key:
    row = session.get(Key, named) or session.scalar(select(Key).where(Key.name == normalise_name(named)))
    if row is None:
        raise KeyNotFound(named)
    return row


def _sign_out(session: Session, key_id: str) -> None:
    for row in session.scalars(select(SignIn).where(SignIn.key_id == key_id)):
        session.delete(row)
