"""Keys for tests: made in the data folder of a running service, as `reid keys create` does."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime

import httpx

from service.keys.callers import Role
from service.keys.keys import create_key
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.store import Store


@contextmanager
def store_of(settings: Settings) -> Iterator[Store]:
    """Open the database of a gallery beside its service."""
    engine = make_engine(settings.database_url)
    try:
        yield Store(settings, make_sessions(engine))
    finally:
        engine.dispose()


def make_key(
    settings: Settings,
    role: str,
    name: str = "",
    cameras: Collection[str] | None = None,
    expires_at: datetime | None = None,
) -> str:
    """Make a key in the database of a gallery, and return it."""
    with store_of(settings) as store:
        return create_key(store, name or f"the {role}", Role(role), cameras, expires_at)[1]


@contextmanager
def as_key(client: httpx.Client, key: str) -> Iterator[httpx.Client]:
    """Return a client of the same service that sends a key."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=client.base_url, headers=headers, timeout=client.timeout) as keyed:
        yield keyed
