"""The model versions this gallery knows: checkpoint files by content hash, and a row for each."""

import os
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from model.checkpoint import load_checkpoint
from model.errors import ModelError
from model.files import sync_dir
from service.errors import ModelNotFound, UnfitCheckpoint
from service.serving import Serving, load_embedder
from service.tables import Embedding, Model, now

UNFINISHED_S = 3600
"""No upload of a checkpoint takes so long."""


@dataclass(frozen=True)
class KnownModel:
    """A registered version, and how many items have an embedding of it."""

    row: Model
    num_embedded: int


def register(serving: Serving, checkpoint: BinaryIO) -> tuple[KnownModel, bool]:
    """Check a checkpoint, keep it, and tell whether it was new.

    Raises:
        UnfitCheckpoint: if it is no network we can serve; nothing is kept.
    """
    directory = serving.settings.models_dir
    temporary = directory / f".{secrets.token_hex(8)}.safetensors"
    try:
        _copy_durably(checkpoint, temporary)
        load_embedder(temporary, serving.settings)
        return _keep(serving, temporary)
    except UnfitCheckpoint as error:
        raise UnfitCheckpoint(str(error).replace(temporary.name, "the file")) from error
    finally:
        temporary.unlink(missing_ok=True)


def register_shipped(serving: Serving, path: Path) -> Model:
    """Register the checkpoint that comes with the program, if it is not known yet.

    Raises:
        UnfitCheckpoint: if it is no network of ours.
    """
    temporary = serving.settings.models_dir / f".{secrets.token_hex(8)}.safetensors"
    try:
        with path.open("rb") as file:
            _copy_durably(file, temporary)
        known, _ = _keep(serving, temporary)
    except FileNotFoundError as error:
        raise UnfitCheckpoint(f"the default checkpoint {path} is not there") from error
    else:
        return known.row
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(models_dir: Path) -> None:
    """Delete what uploads have left behind that a crash cut short; another process may be at a newer one."""
    for path in models_dir.glob(".*.safetensors"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > UNFINISHED_S:
                path.unlink()


def list_models(serving: Serving) -> list[KnownModel]:
    """Return every registered version, oldest first."""
    with serving.sessions.read() as session:
        models = session.scalars(select(Model).order_by(Model.created_at, Model.version))
        return [KnownModel(row, _num_embedded(session, row.version)) for row in models]


def find_model(serving: Serving, version: str) -> KnownModel:
    """Return one registered version.

    Raises:
        ModelNotFound: there is none.
    """
    with serving.sessions.read() as session:
        row = session.get(Model, version)
        if row is None:
            raise ModelNotFound(version)
        return KnownModel(row, _num_embedded(session, version))


def _keep(serving: Serving, temporary: Path) -> tuple[KnownModel, bool]:
    """Move a file to its place by version, and make its row unless there is one."""
    try:
        checkpoint = load_checkpoint(temporary)
    except ModelError as error:
        raise UnfitCheckpoint(str(error).replace(temporary.name, "the file")) from error
    filename = f"{checkpoint.version}.safetensors"
    with serving.changing() as change:
        temporary.replace(temporary.with_name(filename))
        sync_dir(temporary.parent)
        row = change.session.get(Model, checkpoint.version)
        is_new = row is None
        if row is None:
            row = Model(
                version=checkpoint.version,
                filename=filename,
                card=checkpoint.card.to_dict(),
                state="registered",
                created_at=now(),
            )
            change.session.add(row)
        return KnownModel(row, _num_embedded(change.session, row.version)), is_new


def _num_embedded(session: Session, version: str) -> int:
    statement = select(func.count()).select_from(Embedding).where(Embedding.model_version == version)
    return session.scalar(statement) or 0


def _copy_durably(source: BinaryIO, target: Path) -> None:
    source.seek(0)
    with target.open("xb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())
