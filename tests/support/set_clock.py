"""A clock that a test sets: time goes on when the test says so, and the time of day jumps when it says so."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import select

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
