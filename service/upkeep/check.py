"""What `reid check` does: hold SQL, crops, embeddings and the snapshot against each other.

It only reads, beside a running service too, unless it is told to repair. What can be made again from what is
whole is repaired: embeddings from crops, the snapshot from the database. What cannot, a crop that is gone, is
reported and left as it is.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from model.data.images import UNLIMITED
from service.errors import CropMissing, ImageError
from service.serving.embedding import embed_in_batches, to_half
from service.serving.generation import Generation
from service.serving.serving import Serving
from service.store.changes import Transaction, active_model
from service.store.database import pages
from service.store.store import Store
from service.store.tables import Change, Embedding, Gallery, Item
from service.upkeep.orphans import find_strays, let_go
from service.uploads.requests import decode

LIKE = 0.99
"""The least cosine of an embedding with the same one made anew, perhaps by another processor."""

SETTLED_S = 600
"""A crop that is younger may belong to an enrolment that is under way."""


class Problem(StrEnum):
    """What can be wrong."""

    log = "the change log"
    crop = "a crop is gone or has changed"
    embedding = "an embedding is absent or wrong"
    orphan = "a crop belongs to nothing"
    snapshot = "the snapshot of the index"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; `repaired` if it is so no more."""

    problem: Problem
    detail: str
    repaired: bool = False


@dataclass(frozen=True)
class Report:
    """How much was looked at, and what was found; `num_young` crops of nothing may yet get their items."""

    num_items: int
    num_recomputed: int
    findings: list[Finding]
    num_young: int

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing is wrong, or nothing any more."""
        return all(finding.repaired for finding in self.findings)


def check(store: Store, *, num_recomputed: int = 100, repair: bool = False) -> Report:
    """Compare everything with everything.

    Args:
        store: of a gallery whose schema is up to date; it need not be in service.
        num_recomputed: how many items, drawn by chance, are embedded anew and compared.
        repair: what can be rebuilt.

    Raises:
        ServiceError: the active network cannot be loaded.
    """
    serving = Serving(store)
    findings = [*_snapshot_findings(serving, repair=repair), *_log_findings(serving)]
    with serving.store.read() as session:
        slots = session.scalars(select(Item.slot).order_by(Item.slot)).all()
    generation = serving.load_active()  # after the slots: what comes meanwhile is looked at by the next check
    generation.index.close()
    sample = sorted(random.sample(slots, min(num_recomputed, len(slots))))
    wrong = dict(_wrong_embeddings(serving, generation, slots))
    wrong |= dict.fromkeys(_unlike(serving, generation, sample, wrong), "is not what the network makes")
    findings += _crop_findings(serving, slots)
    findings += _embedding_findings(serving, generation, wrong, repair=repair)
    orphans, num_young = _orphan_findings(serving, repair=repair)
    return Report(len(slots), len(sample), [*findings, *orphans], num_young)


def _snapshot_findings(serving: Serving, *, repair: bool) -> Iterator[Finding]:
    with serving.store.read() as session:
        gallery_id, newest = session.execute(select(Gallery.id, Gallery.newest_change)).one()
        active = active_model(session)
    reason = serving.snapshots.fault(gallery_id, active.gallery_version if active else "", newest)
    if reason:
        if repair:
            serving.snapshots.remove()
        yield Finding(Problem.snapshot, reason, repair)


def _log_findings(serving: Serving) -> Iterator[Finding]:
    with serving.store.read() as session:
        newest = session.scalars(select(Gallery.newest_change)).one()
        first, last, num = session.execute(
            select(func.min(Change.sequence), func.max(Change.sequence), func.count()).select_from(Change)
        ).one()
    if num and (last != newest or last - first + 1 != num):
        yield Finding(
            Problem.log, f"has {num} numbers from {first} to {last}, and should have all up to {newest}"
        )


def _crop_findings(serving: Serving, slots: Sequence[int]) -> Iterator[Finding]:
    for page in pages(slots):
        with serving.store.read() as session:
            items = session.execute(
                select(Item.id, Item.sha256).where(Item.slot.in_(page), Item.has_crop)
            ).all()
        for item_id, sha256 in items:
            try:
                serving.store.crops.get(sha256)
            except CropMissing as error:
                yield Finding(Problem.crop, f"item {item_id}: {error}")


def _wrong_embeddings(
    serving: Serving, generation: Generation, slots: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Find items whose stored embedding is absent, misshapen or not finite, or not the one in the index.

    Items that have gone meanwhile are among them; who tells of them looks whether they are still there.
    """
    num_bytes = 2 * generation.index.embedding_size
    indexed = set(generation.index.slots().tolist())
    for page in pages(slots):
        with serving.store.read() as session:
            stored = _embeddings(session, generation.replica.version, page)
        for slot in page:
            values = stored.get(slot)
            if values is None or len(values) != num_bytes:
                yield slot, "is absent" if values is None else f"has {len(values)} bytes, not {num_bytes}"
            elif not np.isfinite(np.frombuffer(values, "<f2")).all():
                yield slot, "is not finite"
            elif slot not in indexed or generation.index.embeddings([slot])[0].tobytes() != values:
                yield slot, "is not in the index as the database has it"


def _embeddings(session: Session, version: str, slots: Sequence[int]) -> dict[int, bytes]:
    statement = select(Embedding.slot, Embedding.values).where(
        Embedding.model_version == version, Embedding.slot.in_(slots)
    )
    return {row[0]: row[1] for row in session.execute(statement)}


def _unlike(
    serving: Serving, generation: Generation, sample: Sequence[int], wrong: dict[int, str]
) -> Iterator[int]:
    """Find items of a sample whose stored embedding is not like the one that the network makes."""
    for page in pages([slot for slot in sample if slot not in wrong]):
        made = _embed(serving, generation, page)
        with serving.store.read() as session:
            stored = _embeddings(session, generation.replica.version, list(made))
        for slot, embedding_D in made.items():
            if slot in stored:
                cosine = np.frombuffer(stored[slot], "<f2").astype(np.float32) @ embedding_D.astype(
                    np.float32
                )
                if not cosine >= LIKE:
                    yield slot


def _embed(serving: Serving, generation: Generation, slots: Sequence[int]) -> dict[int, NDArray[np.float16]]:
    """Return new embeddings of those items whose crop is whole; few images are in memory at a time."""
    with serving.store.read() as session:
        rows = session.execute(
            select(Item.slot, Item.sha256).where(Item.slot.in_(slots), Item.has_crop)
        ).all()
    whole: list[int] = []

    def images() -> Iterator[Image.Image]:
        for slot, sha256 in rows:
            try:
                image, _ = decode(serving.store.crops.get(sha256), UNLIMITED)
            except (CropMissing, ImageError):
                continue  # told as a crop
            whole.append(slot)
            yield image

    embeddings_ND = to_half(embed_in_batches(generation.gallery_embedder, images()))
    return dict(zip(whole, embeddings_ND, strict=True))


def _embedding_findings(
    serving: Serving, generation: Generation, wrong: dict[int, str], *, repair: bool
) -> list[Finding]:
    findings = []
    for page in pages(wrong):
        made = _embed(serving, generation, page) if repair else {}
        if made:
            with serving.store.change() as change:
                _store(change, generation.replica.version, made)
        with serving.store.read() as session:
            items = session.execute(select(Item.slot, Item.id).where(Item.slot.in_(page))).all()
        findings += [
            Finding(Problem.embedding, f"of item {item_id} {wrong[slot]}", slot in made)
            for slot, item_id in items
        ]
    if any(finding.repaired for finding in findings):
        with serving.store.change() as change:
            change.note("rebuilt")  # every index is built anew
    return findings


def _store(change: Transaction, version: str, made: dict[int, NDArray[np.float16]]) -> None:
    """Store embeddings of the items that are still there."""
    alive = change.session.scalars(select(Item.slot).where(Item.slot.in_(made))).all()
    for slot in alive:
        change.session.merge(Embedding(slot=slot, model_version=version, values=made[slot].tobytes()))


def _orphan_findings(serving: Serving, *, repair: bool) -> tuple[list[Finding], int]:
    """Find crops of nothing, and how many more are too young to tell."""
    strays = list(find_strays(serving.store))
    settled = [path for path, written_s in strays if time.time() - written_s >= SETTLED_S]
    unfinished = list(serving.store.crops.unfinished())
    if repair:
        let_go(serving.store, [path.name for path in settled])
        for path in unfinished:
            path.unlink(missing_ok=True)
    findings = [Finding(Problem.orphan, str(path), repair) for path in (*settled, *unfinished)]
    return findings, len(strays) - len(settled)
