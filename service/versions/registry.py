"""The registry of model versions. Each has a row, and a checkpoint file named by the hash of its contents."""

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

from model.card import Card, salvage_card
from model.checkpoint import checkpoint_version, load_checkpoint
from model.converted import discard_converted
from model.errors import ModelError
from model.files import sync_dir
from model.interop.trial import try_apart
from service.audit.entries import record
from service.errors import ModelFileLost, ModelInUse, ModelNotFound, NotReady, UnfitCheckpoint
from service.jobs.jobs import NOT_ENDED
from service.serving.embedding import load_embedder
from service.store.changes import active_model
from service.store.database import VALUES_PER_STATEMENT
from service.store.store import Store
from service.store.tables import Embedding, Item, Job, Model, ReplacedEmbedding, now
from service.versions.trials import turn

UNFINISHED_S = 3600
"""Age in seconds from which the file of an upload is a leftover; no upload takes so long."""


@dataclass(frozen=True)
class KnownModel:
    """A registered model version and its present state.

    Attributes:
        row: its row in the database.
        state: the first of these that applies: "active"; "failed", if the checkpoint file is unusable;
            "backfilling" or "evaluating", while such a job has not ended; "retired", if the version was
            active before; "ready", if every item has an embedding by the version; "registered".
        failure: why the checkpoint file is unusable, or None.
        num_embedded: how many items have an embedding by the version.
        coverage: the share of all items that have an embedding by the version, 0 to 1.
        num_bytes: the size of the checkpoint file.
        card: the card, without descriptions that break a rule of today; None if the card cannot be used.
        is_file_whole: whether the file is there and has not changed.
    """

    row: Model
    state: str
    failure: str | None
    num_embedded: int
    coverage: float
    num_bytes: int
    card: Card | None
    is_file_whole: bool


def register(store: Store, checkpoint: BinaryIO) -> tuple[KnownModel, bool]:
    """Check and register a checkpoint, and return the version and whether it is new.

    Raises:
        UnfitCheckpoint: the service cannot use the checkpoint; nothing is kept.
        TrialsBusy: other networks are being tried; nothing is kept.
        StorageFull: there is no room for the checkpoint; nothing is kept.
    """
    directory = store.settings.models_dir
    store.room.require({directory: checkpoint.seek(0, os.SEEK_END)})
    temporary = directory / f".{secrets.token_hex(8)}.safetensors"
    try:
        _copy_durably(checkpoint, temporary)
        with turn(store.settings.data_dir) as descriptor:
            if not _try_apart(temporary, descriptor):
                load_embedder(temporary, store.settings)
        return _keep(store, temporary)
    except UnfitCheckpoint as error:
        _discard_networks(store, temporary)
        raise UnfitCheckpoint(str(error).replace(temporary.name, "the file")) from error
    finally:
        temporary.unlink(missing_ok=True)


def register_shipped(store: Store, path: Path) -> Model:
    """Register the checkpoint that ships with the program, unless it is registered already.

    Raises:
        UnfitCheckpoint: the file is not a checkpoint, or does not exist.
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
    """Delete the files of interrupted uploads, except young files, which another process may be writing."""
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
    """Return the path of the checkpoint file of a version.

    Raises:
        ModelNotFound: there is no such version.
        ModelFileLost: the file is gone or has changed.
    """
    known = find_model(store, version)
    if known.failure:
        raise ModelFileLost(known.failure)
    return store.settings.models_dir / known.row.filename


def delete_model(store: Store, version: str) -> None:
    """Delete a version that is not in use: its embeddings, its row, its file and its converted networks.

    Raises:
        ModelNotFound: there is no such version.
        ModelInUse: the version is active, its embeddings are searched, or a job needs it.
    """
    delete_embeddings(store, version)
    with store.change(makes_room=True) as change:
        path = store.settings.models_dir / _check_unused(change.session, version).filename
        change.session.execute(delete(Model).where(Model.version == version))
        record(model_version=version)
        # Unlinked before the commit, because after the commit the version may be registered again.
        path.unlink(missing_ok=True)
        discard_converted(store.settings.cache_dir, version)


def delete_embeddings(store: Store, version: str) -> None:
    """Delete the embeddings of a version that is not in use, in batches.

    Raises:
        ModelNotFound: there is no such version.
        ModelInUse: the version is active, its embeddings are searched, or a job needs the version. A job may
            be queued between two batches; some embeddings are deleted then.
    """
    batch = select(Embedding.slot).where(Embedding.model_version == version).limit(VALUES_PER_STATEMENT)
    while True:
        with store.change(makes_room=True) as change:
            _check_unused(change.session, version)
            slots = change.session.scalars(batch).all()
            is_in_batch = (Embedding.model_version == version) & Embedding.slot.in_(slots)
            change.session.execute(delete(Embedding).where(is_in_batch))
            change.session.execute(
                delete(ReplacedEmbedding).where(ReplacedEmbedding.model_version == version)
            )
        if len(slots) < VALUES_PER_STATEMENT:
            return


def _check_unused(session: Session, version: str) -> Model:
    """Return the row of a version, or raise if the version is in use."""
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
    """Return the versions of these rows with their present states."""
    num_items = session.scalar(select(func.count()).select_from(Item)) or 0
    versions = [row.version for row in rows]
    counted = select(Embedding.model_version, func.count()).where(Embedding.model_version.in_(versions))
    embedded = {row[0]: row[1] for row in session.execute(counted.group_by(Embedding.model_version))}
    working = select(Job.model_version, Job.kind).where(Job.state.in_(NOT_ENDED))
    at_work = {row[0]: row[1] for row in session.execute(working.order_by(Job.kind.desc()))}
    known = []
    for row in rows:
        failure, num_bytes = _file_fault(store.settings.models_dir / row.filename, row.version)
        is_whole = failure is None
        card, fault = salvage_card(row.card, row.version)
        if fault:
            failure = failure or f"{fault}; an older version of this program has kept it"
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
        coverage = num / num_items if num_items else 0.0
        known.append(KnownModel(row, state, failure, num, coverage, num_bytes, card, is_whole))
    return known


def _file_fault(path: Path, version: str) -> tuple[str | None, int]:
    """Return why a checkpoint file is unusable, or None, and the size of the file in bytes."""
    try:
        found = path.stat()
        is_whole = _hashed(path, found.st_mtime_ns, found.st_size, found.st_ino) == version
    except (OSError, ModelError):
        return f"its file {path.name} is gone; register it again", 0
    return None if is_whole else f"its file {path.name} has changed; register it again", found.st_size


@lru_cache(maxsize=256)
def _hashed(path: Path, _mtime_ns: int, _size: int, _inode: int) -> str:
    """Return the version of a checkpoint file, which is read again only if time, size or inode change."""
    return checkpoint_version(path)


def _keep(store: Store, temporary: Path) -> tuple[KnownModel, bool]:
    """Rename a checkpoint file to its version, and add the row of the version unless it exists.

    Returns:
        The version, and whether it is new.
    """
    try:
        checkpoint = load_checkpoint(temporary)
    except ModelError as error:
        raise UnfitCheckpoint(str(error).replace(temporary.name, "the file")) from error
    filename = f"{checkpoint.version}.safetensors"
    with store.change() as change:
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
        record(model_version=row.version, is_new=is_new)
        change.session.flush()  # before the file gets its name, because a row may be refused
        temporary.replace(temporary.with_name(filename))
        sync_dir(temporary.parent)
        return _known(store, change.session, [row])[0], is_new


def _discard_networks(store: Store, temporary: Path) -> None:
    """Delete what was converted of a checkpoint that is not kept."""
    with suppress(ModelError):
        version = checkpoint_version(temporary)
        with store.read() as session:
            if session.get(Model, version) is None:
                discard_converted(store.settings.cache_dir, version)


def _try_apart(path: Path, descriptor: int) -> bool:
    """Try a foreign network in another process, because a hostile graph can crash OpenVINO.

    Returns whether the checkpoint was a foreign network.
    """
    try:
        return try_apart(path, [descriptor])
    except ModelError as error:
        raise UnfitCheckpoint(str(error).replace(path.name, "the file")) from error


def _copy_durably(source: BinaryIO, target: Path) -> None:
    source.seek(0)
    with target.open("xb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())
