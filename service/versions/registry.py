"""The registry of model versions: a checkpoint file named by its content hash, and a row, for each."""

import os
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from model.checkpoint import checkpoint_version, load_checkpoint
from model.errors import ModelError
from model.files import sync_dir
from model.interop.trial import try_apart
from service.errors import ModelFileLost, ModelInUse, ModelNotFound, NotReady, UnfitCheckpoint
from service.jobs.jobs import NOT_ENDED
from service.serving.embedding import load_embedder
from service.store.changes import active_model
from service.store.database import VALUES_PER_STATEMENT
from service.store.store import Store
from service.store.tables import Embedding, Item, Job, Model, now

UNFINISHED_S = 3600
"""No upload of a checkpoint takes this long, in seconds."""


@dataclass(frozen=True)
class KnownModel:
    """A registered model version as of now.

    Attributes:
        row: its row in the database.
        state: the first of these that holds: active; failed; backfilling or evaluating, while such a job is
            under way; retired, if the version was active once; ready, if every item has an embedding of the
            version; registered.
        failure: why the file of the version cannot be used, if it cannot.
        num_embedded: how many items have an embedding of the version.
        coverage: the share of the items that have one, from 0 to 1.
        num_bytes: the size of the file.
    """

    row: Model
    state: str
    failure: str | None
    num_embedded: int
    coverage: float
    num_bytes: int


def register(store: Store, checkpoint: BinaryIO) -> tuple[KnownModel, bool]:
    """Check a checkpoint and register it, and tell whether it is new.

    Raises:
        UnfitCheckpoint: the checkpoint is no network that can be served; nothing is kept.
    """
    directory = store.settings.models_dir
    temporary = directory / f".{secrets.token_hex(8)}.safetensors"
    try:
        _copy_durably(checkpoint, temporary)
        _try_apart(temporary)
        load_embedder(temporary, store.settings)
        return _keep(store, temporary)
    except UnfitCheckpoint as error:
        raise UnfitCheckpoint(str(error).replace(temporary.name, "the file")) from error
    finally:
        temporary.unlink(missing_ok=True)


def register_shipped(store: Store, path: Path) -> Model:
    """Register the checkpoint that ships with the program, unless it is registered.

    Raises:
        UnfitCheckpoint: the file is no checkpoint, or does not exist.
    """
    temporary = store.settings.models_dir / f".{secrets.token_hex(8)}.safetensors"
    try:
        with path.open("rb") as file:
            _copy_durably(file, temporary)
        known, _ = _keep(store, temporary)
    except FileNotFoundError as error:
        raise UnfitCheckpoint(f"the default checkpoint {path} does not exist") from error
    else:
        return known.row
    finally:
        temporary.unlink(missing_ok=True)


def purge_unfinished(models_dir: Path) -> None:
    """Delete the files of interrupted uploads; a young file may be an upload of another process."""
    for path in models_dir.glob(".*.safetensors"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > UNFINISHED_S:
                path.unlink()


def list_models(store: Store) -> list[KnownModel]:
    """Return every registered version, oldest first."""
    with store.read() as session:
        models = session.scalars(select(Model).order_by(Model.created_at, Model.version)).all()
        return _known(store, session, models)


def find_model(store: Store, version: str) -> KnownModel:
    """Return one registered version.

    Raises:
        ModelNotFound: there is no such version.
    """
    with store.read() as session:
        return _find(store, session, version)


def find_active(store: Store) -> KnownModel:
    """Return the active version.

    Raises:
        NotReady: no version is active yet.
    """
    with store.read() as session:
        active = active_model(session)
        if active is None:
            raise NotReady("no model version is active yet")
        return _find(store, session, active.version)


def find_file(store: Store, version: str) -> Path:
    """Return the path of the checkpoint of a version.

    Raises:
        ModelNotFound: there is no such version.
        ModelFileLost: the file is gone or has changed.
    """
    known = find_model(store, version)
    if known.failure:
        raise ModelFileLost(known.failure)
    return store.settings.models_dir / known.row.filename


def delete_model(store: Store, version: str) -> None:
    """Delete a version that is not in use: its embeddings, its row and its file.

    Raises:
        ModelNotFound: there is no such version.
        ModelInUse: the version is active, its embeddings are searched, or a job needs it.
    """
    delete_embeddings(store, version)
    with store.change(makes_room=True) as change:
        path = store.settings.models_dir / _check_unused(change.session, version).filename
        change.session.execute(delete(Model).where(Model.version == version))
        path.unlink(
            missing_ok=True
        )  # before the commit, because afterwards somebody may register the version again


def delete_embeddings(store: Store, version: str) -> None:
    """Delete the embeddings of a version that is not in use, many at a time.

    Raises:
        ModelNotFound: there is no such version.
        ModelInUse: the version is in use, or an activation or evaluation of it has been queued since.
    """
    some = select(Embedding.slot).where(Embedding.model_version == version).limit(VALUES_PER_STATEMENT)
    while True:
        with store.change(makes_room=True) as change:
            _check_unused(change.session, version)
            slots = change.session.scalars(some).all()
            these = Embedding.model_version == version, Embedding.slot.in_(slots)
            change.session.execute(delete(Embedding).where(*these))
        if len(slots) < VALUES_PER_STATEMENT:
            return


def _check_unused(session: Session, version: str) -> Model:
    row = session.get(Model, version)
    if row is None:
        raise ModelNotFound(version)
    if row.version in (active_model(session) or ()):
        raise ModelInUse(version, "is in service")
    at_work = select(Job.id).where(Job.model_version == version, Job.state.in_(NOT_ENDED)).limit(1)
    if job_id := session.scalar(at_work):
        raise ModelInUse(version, f"is needed by /jobs/{job_id}")
    return row


def _find(store: Store, session: Session, version: str) -> KnownModel:
    row = session.get(Model, version)
    if row is None:
        raise ModelNotFound(version)
    return _known(store, session, [row])[0]


def _known(store: Store, session: Session, rows: Sequence[Model]) -> list[KnownModel]:
    """Return the versions of these rows with their states."""
    num_items = session.scalar(select(func.count()).select_from(Item)) or 0
    versions = [row.version for row in rows]
    counted = select(Embedding.model_version, func.count()).where(Embedding.model_version.in_(versions))
    embedded = {row[0]: row[1] for row in session.execute(counted.group_by(Embedding.model_version))}
    working = select(Job.model_version, Job.kind).where(Job.state.in_(NOT_ENDED))
    at_work = {row[0]: row[1] for row in session.execute(working.order_by(Job.kind.desc()))}
    known = []
    for row in rows:
        failure, num_bytes = _file_fault(store.settings.models_dir / row.filename, row.version)
        num = embedded.get(row.version, 0)
        is_ready = 0 < num_items == num
        if row.state == "active":
            state = "active"
        elif failure:
            state = "failed"
        elif row.version in at_work:
            state = "backfilling" if at_work[row.version] == "activation" else "evaluating"
        else:
            state = "ready" if is_ready and row.state == "registered" else row.state
        known.append(KnownModel(row, state, failure, num, num / num_items if num_items else 0.0, num_bytes))
    return known


def _file_fault(path: Path, version: str) -> tuple[str | None, int]:
    """Return why the file of a version cannot be used, if it cannot, and its size in bytes."""
    try:
        found = path.stat()
        is_whole = _hashed(path, found.st_mtime_ns, found.st_size, found.st_ino) == version
    except (OSError, ModelError):
        return f"its file {path.name} is gone; register it again", 0
    return None if is_whole else f"its file {path.name} has changed; register it again", found.st_size


@lru_cache(maxsize=256)
def _hashed(path: Path, _mtime_ns: int, _size: int, _inode: int) -> str:
    """Return the version of a file; the file is read again only when its time, size or inode changes."""
    return checkpoint_version(path)


def _keep(store: Store, temporary: Path) -> tuple[KnownModel, bool]:
    """Move a file to the name of its version, and add its row unless there is one."""
    try:
        checkpoint = load_checkpoint(temporary)
    except ModelError as error:
        raise UnfitCheckpoint(str(error).replace(temporary.name, "the file")) from error
    filename = f"{checkpoint.version}.safetensors"
    with store.change() as change:
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
        change.session.flush()
        return _known(store, change.session, [row])[0], is_new


def _try_apart(path: Path) -> None:
    try:
        try_apart(path)
    except ModelError as error:
        raise UnfitCheckpoint(str(error).replace(path.name, "the file")) from error


def _copy_durably(source: BinaryIO, target: Path) -> None:
    source.seek(0)
    with target.open("xb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())
