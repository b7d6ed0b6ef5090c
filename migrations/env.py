"""How Alembic reaches the database: by a connection that the caller gives, or by the settings."""

from alembic import context
from sqlalchemy import Connection

from service.settings import read_settings
from service.store.all_tables import METADATA
from service.store.database import make_engine


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with make_engine(read_settings().database_url).begin() as connection:
        run(connection)
