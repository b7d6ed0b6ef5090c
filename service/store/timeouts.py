"""Time-outs of PostgreSQL, so that a request is answered 503 instead of waiting without end.

The server ends a statement or a wait for a lock that takes too long. A server that hangs ends nothing, so a
connection also stops waiting by itself. Both hold for HTTP requests alone. A migration, a backup, a check, a
backfill and a purge have statements that rightly take minutes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from sqlalchemy import Connection, Engine, event

STATEMENT_S = 12
"""How long a statement of a request may take, in seconds."""

LOCK_S = 10
"""How long a statement of a request may wait for a lock, in seconds."""

SILENCE_S = 14.0
"""How long a request waits for the server, in seconds; longer than the server itself may take."""

CONNECT = {
    "connect_timeout": 4,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""Parameters of a connection, by which a host that has gone is noticed; those of the URL go before."""

SET = f"SET statement_timeout = '{STATEMENT_S}s'; SET lock_timeout = '{LOCK_S}s'"
SET_NONE = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0"

_silence_s: ContextVar[float | None] = ContextVar("silence_s", default=None)


@contextmanager
def answer_within(silence_s: float | None) -> Iterator[None]:
    """Bound how long the statements of this context wait for PostgreSQL; None waits without end."""
    token = _silence_s.set(silence_s)
    try:
        yield
    finally:
        _silence_s.reset(token)


class ImpatientConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server has not answered a statement in time."""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for the server, as psycopg does, and at most as long as the context allows.

        Raises:
            OperationalError: the server has not answered.
        """
        silence_s = _silence_s.get()
        if timeout is not None or silence_s is None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, silence_s)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()
            raise psycopg.OperationalError(f"the server has not answered for {silence_s:g} s") from error


def bound_waiting(engine: Engine) -> None:
    """Set the time-outs of the connections of an engine of PostgreSQL."""

    def connect(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        return ImpatientConnection.connect(*arguments, **CONNECT | options)

    def set_up(connection: psycopg.Connection[Any], _record: object) -> None:
        connection.execute(SET)
        connection.commit()

    def begin(connection: Connection) -> None:
        is_autocommit = connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
        if _silence_s.get() is None and not is_autocommit:
            connection.exec_driver_sql(SET_NONE)

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", begin)
