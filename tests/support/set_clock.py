"""A clock that a test sets: time goes on when the test says so, and the time of day jumps when it says so."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx
from sqlalchemy import select

from live_server import enroll, serve, wait_until
from service.settings import Settings
from service.store.clock import Clock
from service.store.database import make_engine, make_sessions
from service.store.tables import Retention

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


class SetClock:
    """Both clocks of a process; a second process on the same machine shares it."""

    def __init__(self, wall: datetime = NOON) -> None:
        self.wall = wall
        self.steady_s = 1_000.0
        self.clock = Clock(lambda: self.wall, lambda: self.steady_s)

    def go_on(self, **much: float) -> None:
        """Let time pass, as `timedelta` counts it."""
        self.wall += timedelta(**much)
        self.steady_s += timedelta(**much).total_seconds()

    def jump(self, **much: float) -> None:
        """Set the time of day forth or back, while no time passes."""
        self.wall += timedelta(**much)


def checked_at(settings: Settings) -> datetime | None:
    """Return when a service has last found its clock right, or None if it has not looked yet."""
    engine = make_engine(settings.database_url)
    with make_sessions(engine).read() as session:
        found = session.scalar(select(Retention.checked_at))
    engine.dispose()
    return found


@contextmanager
def served_with_a_held_expiry(settings: Settings, *crops: bytes) -> Iterator[httpx.Client]:
    """Serve a gallery that was restarted 31 days ahead, so that an expiry of its crops waits for a person."""
    time = SetClock(datetime.now(UTC))
    with serve(settings, clock=time.clock) as client:
        enroll(client, *crops)
        wait_until(lambda: checked_at(settings))
    time.jump(days=31)
    with serve(settings, clock=time.clock) as client:
        wait_until(lambda: "held_expiry" in client.get("/readyz").json())
        yield client
