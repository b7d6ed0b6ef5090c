"""The converted networks of model versions that are gone."""

from sqlalchemy import select

from model.converted import purge_converted
from service.store.store import Store
from service.store.tables import Model


def purge_gone_networks(store: Store) -> int:
    """Delete the converted networks of versions that are not registered, and return the number of files."""
    with store.read() as session:
        versions = set(session.scalars(select(Model.version)))
    return purge_converted(store.settings.cache_dir, versions)
