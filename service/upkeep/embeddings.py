"""The embeddings in `reid check`: compare them with what the network makes, and repair them.

A network can be wrong too: by a damaged cache, or by a fault of the engine that runs it. So a stored
embedding is replaced only if two makings of the embedding agree with each other and not with what is stored.
The first making is that of the service. The second making takes nothing from the cache, and runs on another
engine where there is one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from model.converted import discard_converted
from model.embedder import Embedder
from service.errors import CropMissing, ImageError
from service.serving.embedding import load_second_making, to_half
from service.serving.replica import Replica
from service.serving.stored import compare, embed_stored
from service.store.database import pages
from service.store.store import Store
from service.store.tables import Embedding, Item, new_id
from service.upkeep.findings import Finding, FindingKind
from service.upkeep.repairs import replace

Floats = NDArray[np.float32]

MAKE = "make the embedding again from its crop"
REBUILD = "let every process build its index again"
CONVERT = "let the network be converted again"


@dataclass
class _Verdicts:
    """What a page of suspect items has turned out to be, by slot."""

    made: dict[int, Floats]
    indexed: set[int]
    network: set[int]
    differing: set[int]


class EmbeddingCheck:
    """Checks the embeddings of one model version.

    Args:
        store: the gallery.
        embedder: the network as the service runs it.
        replica: the index as the service has it.
        repair: whether to repair what can be repaired.
    """

    def __init__(self, store: Store, embedder: Embedder, replica: Replica, *, repair: bool) -> None:
        self._store = store
        self._embedder = embedder
        self._replica = replica
        self._repair = repair
        self._repair_id = new_id()

    @cached_property
    def _second(self) -> Embedder:
        return load_second_making(self._store, self._embedder.version, self._embedder.runtime)

    def run(self, slots: Sequence[int], sample: Sequence[int]) -> list[Finding]:
        """Check the embeddings of all `slots`, embed those of the sample again, and return the findings."""
        suspects = dict(self._find_wrong(slots))
        unlike = self._find_unlike([slot for slot in sample if slot not in suspects])
        suspects |= dict.fromkeys(unlike, "is not what the network makes")
        findings: list[Finding] = []
        num_by_network, is_rebuilt = 0, False
        for page in pages(suspects):
            verdicts = self._judge(page)
            replaced = self._replace(verdicts.made) if self._repair and verdicts.made else set()
            is_rebuilt |= bool(replaced or verdicts.indexed)
            num_by_network += len(verdicts.network)
            findings += self._findings(page, suspects, verdicts, replaced)
        if is_rebuilt and self._repair:
            with self._store.change() as change:
                change.note("rebuilt")  # every process builds its index again
        if num_by_network:
            findings.append(self._network_finding(num_by_network))
        return findings

    def _find_wrong(self, slots: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Find items whose stored embedding is absent, misshapen or not finite, or not the one in the index.

        Items that were deleted during the check are among them; they are left out of the findings.
        """
        index = self._replica.index
        num_bytes = 2 * index.embedding_size
        indexed = set(index.slots().tolist())
        for page in pages(slots):
            with self._store.read() as session:
                stored = _embeddings(session, self._replica.version, page)
            for slot in page:
                values = stored.get(slot)
                if values is None or len(values) != num_bytes:
                    yield slot, "is absent" if values is None else f"has {len(values)} bytes, not {num_bytes}"
                elif not np.isfinite(np.frombuffer(values, "<f2")).all():
                    yield slot, "is not finite"
                elif slot not in indexed or index.embeddings([slot])[0].tobytes() != values:
                    yield slot, "is not in the index as the database has it"

    def _find_unlike(self, sample: Sequence[int]) -> Iterator[int]:
        """Find items of a sample whose stored embedding is not what the network makes now."""
        for page in pages(sample):
            made = self._embed(self._embedder, page)
            with self._store.read() as session:
                stored = _embeddings(session, self._replica.version, list(made))
            for slot, made_D in made.items():
                if slot in stored and not compare(stored[slot], made_D).is_same:
                    yield slot

    def _embed(self, embedder: Embedder, slots: Sequence[int]) -> dict[int, Floats]:
        """Embed the items whose crop is whole; a broken crop has a finding of its own."""
        with self._store.read() as session:
            kept = select(Item.slot, Item.sha256).where(Item.slot.in_(slots), Item.has_crop)
            sha256s = {row.slot: row.sha256 for row in session.execute(kept)}
        return embed_stored(self._store, embedder, sha256s, (CropMissing, ImageError))

    def _judge(self, page: Sequence[int]) -> _Verdicts:
        """Make the embeddings of suspect items in two ways, and say what is wrong."""
        first, second = self._embed(self._embedder, page), self._embed(self._second, page)
        with self._store.read() as session:
            stored = _embeddings(session, self._replica.version, page)
        verdicts = _Verdicts({}, set(), set(), set())
        for slot in first.keys() & second.keys():
            is_first, is_second = (
                _is_like(stored.get(slot), made_D) for made_D in (first[slot], second[slot])
            )
            if not _is_like(_bytes_of(first[slot]), second[slot]):
                (verdicts.network if is_second else verdicts.differing).add(slot)
            elif is_first or is_second:
                verdicts.indexed.add(slot)
            else:
                verdicts.made[slot] = first[slot]
        return verdicts

    def _replace(self, made: dict[int, Floats]) -> set[int]:
        values = {slot: _bytes_of(made_D) for slot, made_D in made.items()}
        with self._store.change() as change:
            return replace(change, self._repair_id, self._replica.version, values)

    def _findings(
        self, page: Sequence[int], suspects: dict[int, str], verdicts: _Verdicts, replaced: set[int]
    ) -> Iterator[Finding]:
        with self._store.read() as session:
            items = session.execute(select(Item.slot, Item.id).where(Item.slot.in_(page))).all()
        for slot, item_id in items:
            detail = f"of item {item_id} {suspects[slot]}"
            if slot in verdicts.made:
                yield Finding(FindingKind.embedding, detail, slot in replaced, MAKE)
            elif slot in verdicts.indexed:
                yield Finding(FindingKind.embedding, detail, self._repair, REBUILD)
            elif slot in verdicts.differing:
                detail += "; two makings of the embedding differ, so neither replaces what is stored"
                yield Finding(FindingKind.embedding, detail)
            elif slot not in verdicts.network:
                yield Finding(FindingKind.embedding, detail)

    def _network_finding(self, num: int) -> Finding:
        version = self._embedder.version
        if self._repair:
            discard_converted(self._store.settings.cache_dir, version)
        detail = (
            f"{version} as the service runs it ({self._embedder.runtime}) makes other embeddings than its "
            f"checkpoint: of {num} items the stored embeddings are right and the new ones are wrong"
        )
        return Finding(FindingKind.network, detail, self._repair, CONVERT)


def _embeddings(session: Session, version: str, slots: Sequence[int]) -> dict[int, bytes]:
    statement = select(Embedding.slot, Embedding.values).where(
        Embedding.model_version == version, Embedding.slot.in_(slots)
    )
    return {row[0]: row[1] for row in session.execute(statement)}


def _bytes_of(made_D: Floats) -> bytes:
    return to_half(made_D).tobytes()


def _is_like(values: bytes | None, made_D: Floats) -> bool:
    """Tell whether a stored embedding is whole, and is the one that a network makes except for rounding."""
    return values is not None and len(values) == 2 * len(made_D) and compare(values, made_D).is_same
