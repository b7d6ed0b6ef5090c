"""`reid check`: compare the database, the crops, the embeddings and the snapshot with each other.

The check only reads, unless a repair is asked for, so it may run beside a service. A repair makes embeddings
from crops again, and deletes a bad snapshot, because the database can replace it. A crop that is gone cannot
be made again: it is reported.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import CropMissing, ImageError
from service.serving.embedding import require_device, to_half
from service.serving.generation import Generation
from service.serving.serving import Serving
from service.serving.stored import compare, embed_stored
from service.store.changes import Transaction, active_model
from service.store.database import pages
from service.store.store import Store
from service.store.tables import Change, Embedding, Gallery, Item
from service.upkeep.orphans import delete_orphans, find_orphans

MIN_AGE_S = 600
"""Age in seconds below which a crop without an item may belong to an enrolment in progress."""


class FindingKind(StrEnum):
    """What can be wrong with a gallery."""

    log = "the change log"
    crop = "a crop is gone or has changed"
    embedding = "an embedding is absent or wrong"
    orphan = "a crop belongs to nothing"
    snapshot = "the snapshot of the index"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or was wrong and is `repaired`."""

    kind: FindingKind
    detail: str
    repaired: bool = False


@dataclass(frozen=True)
class Report:
    """The result of a check.

    Attributes:
        num_items: how many items were checked.
        num_recomputed: how many of them were embedded again.
        findings: what is wrong.
        num_young: how many crops without an item are so young that a request may still add the item.
    """

    num_items: int
    num_recomputed: int
    findings: list[Finding]
    num_young: int

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing is wrong, or everything that was wrong is repaired."""
        return all(finding.repaired for finding in self.findings)


def check(store: Store, *, num_recomputed: int = 100, repair: bool = False) -> Report:
    """Check a gallery.

    Args:
        store: the gallery, whose schema is up to date; no server needs to run.
        num_recomputed: how many items, drawn by chance, are embedded again and compared.
        repair: whether to make wrong embeddings again, and to delete orphans and a bad snapshot.

    Raises:
        ServiceError: the active network cannot be loaded.
    """
    require_device(store.settings)
    serving = Serving(store)
    findings = [*_snapshot_findings(serving, repair=repair), *_log_findings(store)]
    with serving.store.read() as session:
        slots = session.scalars(select(Item.slot).order_by(Item.slot)).all()
    generation = serving.load_active()  # after the slots, so that the index has every one
    generation.index.close()
    sample = sorted(random.sample(slots, min(num_recomputed, len(slots))))
    wrong = dict(_wrong_embeddings(store, generation, slots))
    wrong |= dict.fromkeys(_find_unlike(store, generation, sample, wrong), "is not what the network makes")
    findings += _crop_findings(store, slots)
    findings += _embedding_findings(store, generation, wrong, repair=repair)
    orphans, num_young = _orphan_findings(store, repair=repair)
    return Report(len(slots), len(sample), [*findings, *orphans], num_young)


def _snapshot_findings(serving: Serving, *, repair: bool) -> Iterator[Finding]:
    with serving.store.read() as session:
        gallery_id, newest = session.execute(select(Gallery.id, Gallery.newest_change)).one()
        active = active_model(session)
    reason = serving.snapshots.find_fault(gallery_id, active.gallery_version if active else "", newest)
    if reason:
        if repair:
            serving.snapshots.delete()
        yield Finding(FindingKind.snapshot, reason, repair)


def _log_findings(store: Store) -> Iterator[Finding]:
    with store.read() as session:
        newest = session.scalars(select(Gallery.newest_change)).one()
        first, last, num = session.execute(
            select(func.min(Change.sequence), func.max(Change.sequence), func.count()).select_from(Change)
        ).one()
    if num and (last != newest or last - first + 1 != num):
        yield Finding(
            FindingKind.log, f"has {num} numbers from {first} to {last}, and should have all up to {newest}"
        )


def _crop_findings(store: Store, slots: Sequence[int]) -> Iterator[Finding]:
    for page in pages(slots):
        with store.read() as session:
            items = session.execute(
                select(Item.id, Item.sha256).where(Item.slot.in_(page), Item.has_crop)
            ).all()
        for item_id, sha256 in items:
            try:
                store.crops.get(sha256)
            except CropMissing as error:
                yield Finding(FindingKind.crop, f"item {item_id}: {error}")


def _wrong_embeddings(
    store: Store, generation: Generation, slots: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Find items whose stored embedding is absent, misshapen or not finite, or not the one in the index.

    Items that were deleted during the check are among them; the caller leaves these out.
    """
    num_bytes = 2 * generation.index.embedding_size
    indexed = set(generation.index.slots().tolist())
    for page in pages(slots):
        with store.read() as session:
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


def _find_unlike(
    store: Store, generation: Generation, sample: Sequence[int], wrong: dict[int, str]
) -> Iterator[int]:
    """Find items of a sample whose stored embedding is not what the network makes now."""
    for page in pages([slot for slot in sample if slot not in wrong]):
        made = _embed(store, generation, page)
        with store.read() as session:
            stored = _embeddings(session, generation.replica.version, list(made))
        for slot, made_D in made.items():
            if slot in stored and not compare(stored[slot], made_D).is_same:
                yield slot


def _embed(store: Store, generation: Generation, slots: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """Embed the items whose crop is whole; a broken crop has a finding of its own."""
    with store.read() as session:
        kept = select(Item.slot, Item.sha256).where(Item.slot.in_(slots), Item.has_crop)
        sha256s = {row.slot: row.sha256 for row in session.execute(kept)}
    return embed_stored(store, generation.gallery_embedder, sha256s, (CropMissing, ImageError))


def _embedding_findings(
    store: Store, generation: Generation, wrong: dict[int, str], *, repair: bool
) -> list[Finding]:
    findings = []
    for page in pages(wrong):
        made = _embed(store, generation, page) if repair else {}
        if made:
            with store.change() as change:
                _store(change, generation.replica.version, made)
        with store.read() as session:
            items = session.execute(select(Item.slot, Item.id).where(Item.slot.in_(page))).all()
        findings += [
            Finding(FindingKind.embedding, f"of item {item_id} {wrong[slot]}", slot in made)
            for slot, item_id in items
        ]
    if any(finding.repaired for finding in findings):
        with store.change() as change:
            change.note("rebuilt")  # every process builds its index again
    return findings


def _store(change: Transaction, version: str, made: dict[int, NDArray[np.float32]]) -> None:
    """Store embeddings of the items that still exist."""
    alive = change.session.scalars(select(Item.slot).where(Item.slot.in_(made))).all()
    for slot in alive:
        change.session.merge(
            Embedding(slot=slot, model_version=version, values=to_half(made[slot]).tobytes())
        )


def _orphan_findings(store: Store, *, repair: bool) -> tuple[list[Finding], int]:
    """Find orphans, and count those that are too young to tell."""
    found = list(find_orphans(store))
    old = [path for path, written_s in found if time.time() - written_s >= MIN_AGE_S]
    unfinished = list(store.crops.unfinished())
    if repair:
        delete_orphans(store, [path.name for path in old])
        for path in unfinished:
            path.unlink(missing_ok=True)
    findings = [Finding(FindingKind.orphan, str(path), repair) for path in (*old, *unfinished)]
    return findings, len(found) - len(old)
