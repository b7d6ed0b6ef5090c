"""Browsers that are signed in: a random token in a cookie stands for a key, for 12 hours.

The cookie holds a token and not the key, so that signing out ends it, and that nobody can take the key
out of a browser.
"""

import secrets
from datetime import timedelta

from sqlalchemy import delete, select

from service.errors import KeyInvalid
from service.keys.callers import Caller
from service.keys.keys import caller_in, caller_of, find_caller, hash_of
from service.store.key_tables import Key, SignIn
from service.store.store import Store

LASTS = timedelta(hours=12)
MAX_OF_A_KEY = 100
"""Browsers that are signed in with one key; one more signs the oldest out."""

ENDED = "nobody is signed in here any more; sign in with a key"


def sign_in(store: Store, key: str) -> tuple[Caller, str]:
    """Sign a browser in.

    Returns:
        The caller, and the token for the cookie.

    Raises:
        KeyInvalid: the key is wrong, was revoked or has expired.
    """
    find_caller(store, key)  # nobody without a key writes
    token, moment = secrets.token_urlsafe(32), store.clock.now()
    with store.write() as session:
        # A key that was rotated since signs nobody in, and one that is rotated later finds this row.
        caller = caller_in(session, key, moment, until_commit=True)
        session.execute(delete(SignIn).where(SignIn.expires_at <= moment))
        own = select(SignIn).where(SignIn.key_id == caller.key_id).order_by(SignIn.expires_at.desc())
        for oldest in session.scalars(own.offset(MAX_OF_A_KEY - 1)).all():
            session.delete(oldest)
        session.add(SignIn(sha256=hash_of(token), key_id=caller.key_id, expires_at=moment + LASTS))
    return caller, token


def find_signed_in(store: Store, token: str) -> Caller:
    """Return the caller to whom the token of a cookie belongs.

    Raises:
        KeyInvalid: the browser is not signed in, or its key was revoked or has expired.
    """
    moment = store.clock.now()
    with store.read() as session:
        statement = select(Key, SignIn.expires_at).join(SignIn, SignIn.key_id == Key.id)
        found = session.execute(statement.where(SignIn.sha256 == hash_of(token))).one_or_none()
    if found is None or found.expires_at <= moment:
        raise KeyInvalid(ENDED)
    return caller_of(found.Key, moment)


def sign_out(store: Store, token: str) -> None:
    """End the sign-in of a browser, if there is one."""
    with store.read() as session:
        if session.get(SignIn, hash_of(token)) is None:
            return  # anybody may send a cookie, and nobody without a sign-in writes
    with store.write() as session:
        session.execute(delete(SignIn).where(SignIn.sha256 == hash_of(token)))
