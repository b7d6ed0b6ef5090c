"""From an empty or existing data directory to the first Generation; runs in a thread beside the server."""

import time

import structlog
from sqlalchemy import Engine, select

from model.checkpoint import DEFAULT_CHECKPOINT
from service.activation import fail_interrupted_jobs, mark_active
from service.database import migrate
from service.errors import ServiceError
from service.registry import register_shipped, remove_unfinished
from service.serving import Generation, Serving, load_embedder, load_index
from service.tables import Model

logger = structlog.get_logger(__name__)


def start(serving: Serving, engine: Engine) -> Generation:
    """Migrate the database, load the active network and rebuild its index; the caller puts it in service.

    Raises:
        ServiceError: if there is no network that can be served; the message says what to do.
    """
    started_s = time.monotonic()
    settings = serving.settings
    settings.models_dir.mkdir(parents=True, exist_ok=True)
    remove_unfinished(settings.models_dir)
    migrate(engine)
    logger.info("database is up to date", data_dir=str(settings.data_dir))
    fail_interrupted_jobs(serving)
    model = _active_model(serving) or _first_model(serving)
    logger.info("loading the network", model_version=model.version, architecture=model.card["architecture"])
    embedder = load_embedder(settings.models_dir / model.filename, settings)
    if embedder.version != model.version:
        raise ServiceError(f"{model.filename} has changed on the disk: its version is now {embedder.version}")
    index = load_index(serving, model.version, embedder.embedding_size)
    seconds = round(time.monotonic() - started_s, 2)
    logger.info(
        "ready", model_version=model.version, runtime=embedder.runtime, items=len(index), seconds=seconds
    )
    return Generation(model.version, embedder, index)


def _active_model(serving: Serving) -> Model | None:
    with serving.sessions.read() as session:
        return session.scalar(select(Model).where(Model.state == "active"))


def _first_model(serving: Serving) -> Model:
    """Register the checkpoint that ships and activate it: the gallery is new."""
    model = register_shipped(serving, serving.settings.default_checkpoint or DEFAULT_CHECKPOINT)
    mark_active(serving, model.version)
    return model
