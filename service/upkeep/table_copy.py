"""Copy every row of a gallery from one database to another, of either kind.

Rows that only a running service needs are left out: kept answers, doomed crops, jobs that have not ended, the
files that these jobs had yet to enrol, the state of expiries, and who is signed in. Keys are copied, so a
restored gallery is as closed as the gallery was.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, func, or_, select, text, update

from service.jobs.jobs import NOT_ENDED
from service.store.all_tables import METADATA
from service.store.audit_tables import AuditChain
from service.store.key_tables import SignIn
from service.store.tables import DoomedCrop, Gallery, Job, JobFile, KeptAnswer, Retention

ROWS_PER_PAGE = 1_000
LEFT_OUT = frozenset(table.__tablename__ for table in (KeptAnswer, DoomedCrop, Retention, SignIn))

SINGLE = frozenset(table.__tablename__ for table in (Gallery, AuditChain))
"""Tables of one row, which every database has from the beginning."""


@contextmanager
def one_moment(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that sees the database as of its first read, even if others change the database."""
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with engine.connect() as connection:
        yield connection


def copy_tables(source: Connection, target: Connection) -> None:
    """Copy all rows into a new database; the one row that a table of `SINGLE` has there is overwritten."""
    copies = sa.MetaData()
    for original in METADATA.sorted_tables:
        table = _with_plain_nulls(original, copies)
        if table.name in SINGLE:
            target.execute(update(table).values(**source.execute(select(table)).mappings().one()))
        elif table.name not in LEFT_OUT:
            rows = source.execute(_wanted(table), execution_options={"yield_per": ROWS_PER_PAGE})
            for page in rows.mappings().partitions():
                target.execute(table.insert(), [dict(row) for row in page])
    set_last_key(target, last_key(source))


def last_key(connection: Connection) -> int:
    """Return the greatest key that an identity has ever had; the identity may be deleted."""
    if connection.dialect.name == "postgresql":
        statement = f"SELECT last_value FROM {_key_sequence(connection)}"  # noqa: S608 - a name of the database
    else:
        statement = "SELECT seq FROM sqlite_sequence WHERE name = 'identities'"
    return int(connection.scalar(text(statement)) or 0)


def set_last_key(connection: Connection, key: int) -> None:
    """Let new identities get greater keys than this one, so that no key is used twice."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.setval(_key_sequence(connection), max(key, 1))))
        return
    connection.execute(text("DELETE FROM sqlite_sequence WHERE name = 'identities'"))
    statement = text("INSERT INTO sqlite_sequence (name, seq) VALUES ('identities', :key)")
    connection.execute(statement, {"key": key})


def _key_sequence(connection: Connection) -> str:
    return str(connection.scalar(select(func.pg_get_serial_sequence("identities", "key"))))


def _with_plain_nulls(original: sa.Table, copies: sa.MetaData) -> sa.Table:
    """Return the table with JSON columns that write None as NULL, not as the null of JSON."""
    table = original.to_metadata(copies)
    for column in table.columns:
        if isinstance(column.type, sa.JSON):
            column.type = sa.JSON(none_as_null=True)
    return table


def _wanted(table: sa.Table) -> sa.Select[Any]:
    if table.name == Job.__tablename__:
        return select(table).where(table.c.state.not_in(NOT_ENDED))
    if table.name == JobFile.__tablename__:
        ended = select(Job.id).where(Job.state.not_in(NOT_ENDED))
        is_kept = or_(table.c.error.is_not(None), table.c.item_id.is_not(None))
        return select(table).where(table.c.job_id.in_(ended), is_kept)
    return select(table)
