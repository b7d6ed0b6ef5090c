"""Open a gallery for `reid check`: to look at it, which writes nothing, or to repair it."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import DatabaseUnavailable
from service.settings import Settings
from service.store.database import (
    known_schemas,
    make_engine,
    make_sessions,
    migrate,
    require_file,
    schema_of,
)
from service.store.read_only import read_only
from service.store.store import Store


@contextmanager
def opened_to_look(settings: Settings) -> Iterator[Store]:
    """Open a gallery whose service may run. Nothing is written, not even beside the database.

    Raises:
        BadSettings: there is no such database file.
        DatabaseUnavailable: the database has the schema of another version of this program, or a service has
            changed it in a way that makes the look worthless.
    """
    require_file(settings.database_url)
    with read_only(settings.database_url) as engine:
        with engine.connect() as connection:
            schema, (newest, *_) = schema_of(connection), known_schemas()
        if schema is None:
            raise DatabaseUnavailable("there is no gallery in this database")
        if schema != newest:
            raise DatabaseUnavailable(
                f"the database has schema {schema}, and this program {newest}: `reid serve` and "
                "`reid check --repair` of this program migrate an older one"
            )
        yield Store(settings, make_sessions(engine))


@contextmanager
def opened_to_repair(settings: Settings) -> Iterator[Store]:
    """Open a gallery whose service may run, and migrate its database.

    Raises:
        BadSettings: there is no such database file.
    """
    require_file(settings.database_url)
    engine = make_engine(settings.database_url)
    try:
        migrate(engine)
        yield Store(settings, make_sessions(engine))
    finally:
        engine.dispose()
