"""The start: from an empty or existing data folder to the first generation, in a thread beside the server."""

import time
from pathlib import Path
from shlex import quote
from stat import S_IRWXO

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from model.checkpoint import DEFAULT_CHECKPOINT
from service.audit.secret import open_secret
from service.errors import DatabaseUnavailable, NetworkLost, ServiceError
from service.keys.keys import has_keys
from service.people.erasure import purge_traces
from service.serving.embedding import require_device
from service.serving.generation import Generation
from service.serving.serving import Serving
from service.store.changes import active_model
from service.store.database import migrate
from service.store.failures import operator_message
from service.store.store import Store
from service.store.workspace import RESTORING, purge_abandoned
from service.upkeep.claim import claim_folder, refuse_lost_database
from service.upkeep.spellings import unify_names
from service.versions.activation import mark_active
from service.versions.converted import purge_gone_networks
from service.versions.registry import purge_unfinished, register_shipped

logger = structlog.get_logger(__name__)


def start(serving: Serving, engine: Engine) -> Generation | None:
    """Migrate the database, load the active network and its index; the caller puts them in service.

    Returns:
        The first generation. None if the file of the active network is lost: networks can be registered
        then, and the caller tries again until the file is there.

    Raises:
        ServiceError: there is no network that can be served; the message says what to do.
    """
    try:
        return _start(serving, engine)
    except (OSError, SQLAlchemyError) as error:
        reason = operator_message(error)
        if reason is None:
            raise
        raise ServiceError(reason) from error


def _start(serving: Serving, engine: Engine) -> Generation | None:
    started_s = time.monotonic()
    settings = serving.store.settings
    require_device(settings)
    refuse_lost_database(settings)
    settings.models_dir.mkdir(parents=True, exist_ok=True)
    _warn_of_readers(settings.data_dir)
    migrate(engine)
    claim_folder(serving.store)
    open_secret(settings)
    serving.store.room.look()
    purge_unfinished(settings.models_dir)
    purge_abandoned(settings.data_dir, RESTORING)
    logger.info("database is up to date", data_dir=str(settings.data_dir))
    purge_gone_networks(serving.store)
    unify_names(serving.store)
    engine.dispose()  # else SQLite would answer from the pages that were just read, even of a damaged file
    _finish_erasures(serving.store)
    _activate_first(serving)
    _say_if_open(serving.store)
    serving.store.is_open = True
    logger.info("loading the network")
    try:
        generation = serving.load_active()
    except NetworkLost as error:
        if serving.note_failure(str(error)):
            logger.warning("not in service", reason=str(error))
        return None
    logger.info(
        "ready",
        model_version=generation.version,
        runtime=generation.embedder.runtime,
        items=len(generation.index),
        seconds=round(time.monotonic() - started_s, 2),
    )
    return generation


def _warn_of_readers(data_dir: Path) -> None:
    """Say if other users of the machine can enter the data folder, as those that older versions have made.

    A group may be let in on purpose, as by the volumes of Kubernetes.
    """
    if data_dir.exists() and data_dir.stat().st_mode & S_IRWXO:
        close = f"chmod -R o= {quote(str(data_dir.absolute()))}"
        logger.warning(f"every user of this machine can read the crops; run {close}")


def _say_if_open(store: Store) -> None:
    """Say who may use the gallery as long as it has no key."""
    with store.read() as session:
        if has_keys(session):
            return
    who = "who reaches the port" if store.settings.allow_open else "on this machine"
    logger.warning(
        f"no key was made yet, so everybody {who} may do everything; see `reid keys create --help`"
    )


def _finish_erasures(store: Store) -> None:
    """Finish the deletions and erasures that a crash has interrupted."""
    try:
        purge_traces(store)
    except DatabaseUnavailable as error:
        logger.warning("an erasure is not finished", reason=str(error))


def _activate_first(serving: Serving) -> None:
    """Register and activate the shipped checkpoint, if the gallery is new."""
    with serving.store.read() as session:
        if active_model(session):
            return
    model = register_shipped(serving.store, serving.store.settings.default_checkpoint or DEFAULT_CHECKPOINT)
    with serving.store.change() as change:
        if not active_model(change.session):  # else another process was first
            mark_active(change, model.version)
