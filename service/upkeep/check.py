"""`reid check`: compare the database, the crops, the embeddings and the snapshot with each other.

The check writes nothing, unless a repair is asked for, so it may run beside a service. A repair makes
embeddings from crops again, and deletes a bad snapshot, because the database can replace it. A crop that is
gone cannot be made again: it is reported.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from model.converted import discard, find_damaged
from service.errors import CropMissing
from service.serving.embedding import load_registered, require_device
from service.serving.serving import Serving
from service.store.changes import active_model
from service.store.database import pages
from service.store.store import Store
from service.store.tables import Change, Gallery, Item
from service.upkeep.embeddings import CONVERT, EmbeddingCheck
from service.upkeep.findings import Finding, FindingKind
from service.upkeep.orphans import delete_orphans, find_orphans
from service.upkeep.spellings import find_collisions
from service.versions.registry import list_models

MIN_AGE_S = 600
"""Age in seconds below which a crop without an item may belong to an enrolment in progress."""


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
    def num_unlike(self) -> int:
        """Return how many embeddings are absent or wrong."""
        return sum(finding.kind is FindingKind.embedding for finding in self.findings)

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing is wrong, or everything that was wrong is repaired.

        A name in two spellings is not damage: whether it is one person, only a person can tell.
        """
        return all(finding.repaired or not finding.kind.is_damage for finding in self.findings)


def check(store: Store, *, num_recomputed: int = 100, repair: bool = False) -> Report:
    """Check a gallery. Without a repair nothing is written.

    Args:
        store: the gallery, whose schema is up to date; no server needs to run.
        num_recomputed: how many items, drawn by chance, are embedded again and compared.
        repair: whether to make wrong embeddings again, and to delete orphans and a bad snapshot.

    Raises:
        ServiceError: the active network cannot be loaded, although its file is whole.
    """
    require_device(store.settings)
    serving = Serving(store)
    findings = [*_snapshot_findings(serving, repair=repair), *_log_findings(store)]
    findings += [*_model_findings(store), *_network_findings(store, repair=repair)]
    with store.read() as session:
        slots = session.scalars(select(Item.slot).order_by(Item.slot)).all()
    sample = sorted(random.sample(slots, min(num_recomputed, len(slots))))
    check_embeddings = _open_network(serving, repair=repair)
    findings += _crop_findings(store, slots)
    if check_embeddings:
        findings += check_embeddings.run(slots, sample)
    orphans, num_young = _orphan_findings(store, repair=repair)
    num_compared = len(sample) if check_embeddings else 0
    return Report(len(slots), num_compared, [*findings, *orphans, *_name_findings(store)], num_young)


def _open_network(serving: Serving, *, repair: bool) -> EmbeddingCheck | None:
    """Load the network and the index that are searched, or return None if the file of the network is lost."""
    store = serving.store
    with store.read() as session:
        active = active_model(session)
    version = active.gallery_version if active else ""
    if any(known.row.version == version and not known.is_file_whole for known in list_models(store)):
        return None
    embedder = load_registered(store, version, is_cache_read_only=not repair)
    with store.read() as session:
        replica = serving.load_replica(session, embedder)
    replica.index.close()
    return EmbeddingCheck(store, embedder, replica, repair=repair)


def _model_findings(store: Store) -> Iterator[Finding]:
    for known in list_models(store):
        if known.failure:
            is_lost = known.state == "active" and not known.is_file_whole
            more = "; no embedding was compared" if is_lost else ""
            yield Finding(FindingKind.model, f"{known.row.version}: {known.failure}{more}")


def _network_findings(store: Store, *, repair: bool) -> Iterator[Finding]:
    for path, reason in list(find_damaged(store.settings.cache_dir)):
        if repair:
            discard(path)
        yield Finding(FindingKind.network, reason, repair, CONVERT)


def _snapshot_findings(serving: Serving, *, repair: bool) -> Iterator[Finding]:
    with serving.store.read() as session:
        gallery_id, newest = session.execute(select(Gallery.id, Gallery.newest_change)).one()
        active = active_model(session)
    reason = serving.snapshots.find_fault(gallery_id, active.gallery_version if active else "", newest)
    if reason:
        if repair:
            serving.snapshots.delete()
        yield Finding(FindingKind.snapshot, reason, repair, "delete it")


def _name_findings(store: Store) -> list[Finding]:
    with store.read() as session:
        return [Finding(FindingKind.name, str(collision)) for collision in find_collisions(session)]


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


def _orphan_findings(store: Store, *, repair: bool) -> tuple[list[Finding], int]:
    """Find orphans, and count those that are too young to tell."""
    found = list(find_orphans(store))
    old = [path for path, written_s in found if time.time() - written_s >= MIN_AGE_S]
    unfinished = list(store.crops.unfinished())
    if repair:
        delete_orphans(store, [path.name for path in old])
        for path in unfinished:
            path.unlink(missing_ok=True)
    findings = [Finding(FindingKind.orphan, str(path), repair, "delete it") for path in (*old, *unfinished)]
    return findings, len(found) - len(old)
