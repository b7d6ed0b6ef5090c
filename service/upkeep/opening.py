"""Open a gallery for a command without a server: to look at it, which writes nothing, or to change it."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.errors import DatabaseUnavailable
from service.keys.keys import has_keys
from service.settings import Settings
from service.store.database import (
    known_schemas,
    make_engine,
    make_sessions,
    migrate,
    require_file,
    schema_of,
    sqlite_file,
)
from service.store.key_tables import Key
from service.store.read_only import read_only
from service.store.store import Store
from service.upkeep.claim import check_folder, claim_folder, refuse_lost_database


def has_no_key(settings: Settings) -> bool:
    """Return whether a gallery has no key; False if its database cannot be read now."""
    path = sqlite_file(settings.database_url)
    if path is not None and not path.is_file():
        return True
    engine = make_engine(settings.database_url)
    try:
        with Session(engine) as session:
            return not inspect(session.connection()).has_table(Key.__tablename__) or not has_keys(session)
    except (OSError, SQLAlchemyError):
        return False
    finally:
        engine.dispose()


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
def opened_to_change(settings: Settings, *, may_be_new: bool = False) -> Iterator[Store]:
    """Open a gallery whose service may run, and migrate its database.

    Args:
        settings: the settings.
        may_be_new: whether a gallery is made if there is none.

    Raises:
        BadSettings: there is no such database file.
        OtherGallery: the data folder belongs to another gallery.
    """
    if not may_be_new:
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
