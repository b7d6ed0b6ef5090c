"""A clock that a test sets: time goes on when the test says so, and the time of day jumps when it says so."""

from datetime import UTC, datetime, timedelta

from service.store.clock import Clock

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
