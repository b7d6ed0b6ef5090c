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
from service.upkeep.claim import check_folder, claim_folder, refuse_lost_database


@contextmanager
def opened_to_look(settings: Settings) -> Iterator[Store]:
    """Open a gallery whose service may run. Nothing is written, not even beside the database.

    Raises:
        BadSettings: there is no such database file.
        DatabaseUnavailable: the database has the schema of another version of this program, or a service has
            changed it in a way that makes the look worthless.
        OtherGallery: the data folder belongs to another gallery.
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
        store = Store(settings, make_sessions(engine))
        check_folder(store)
        yield store


@contextmanager
def opened_to_repair(settings: Settings) -> Iterator[Store]:
    """Open a gallery whose service may run, and migrate its database.

    Raises:
        BadSettings: there is no such database file.
        OtherGallery: the data folder belongs to another gallery.
    """
    require_file(settings.database_url)
    refuse_lost_database(settings)
    engine = make_engine(settings.database_url)
    try:
        migrate(engine)
        store = Store(settings, make_sessions(engine))
        claim_folder(store)
        yield store
    finally:
        engine.dispose()
