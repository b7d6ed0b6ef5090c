"""People to erase, and searches for what is left of them on the disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
from PIL import Image
from sqlalchemy import select, update

from live_server import encode
from service.settings import Settings
from service.store.changes import transaction
from service.store.database import Sessions, make_engine, make_sessions
from service.store.tables import (
    Attribute,
    Embedding,
    Identity,
    Item,
)

ERASED = "Q7-unmistakable-name"
CONTROL = "K3-unmistakable-name"


def noise(seed: int) -> bytes:
    """Return a JPEG of noise that shares no 64 bytes with one of another seed."""
    pixels_HWC = np.random.default_rng(seed).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels_HWC))


@contextmanager
def opened(settings: Settings) -> Iterator[Sessions]:
    """Open sessions of a gallery; its server may be running."""
    engine = make_engine(settings.database_url)
    yield make_sessions(engine)
    engine.dispose()


def erase(client: httpx.Client, identity_id: str) -> dict[str, Any]:
    """Erase an identity and return the receipt."""
    answer = client.delete(f"/identities/{identity_id}", params={"mode": "erase"})
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


def marks_of(settings: Settings, identity_id: str) -> dict[str, bytes]:
    """Return byte sequences that occur only in one person's crops, embeddings of each version and names."""
    with opened(settings) as sessions, sessions.read() as session:
        items = session.scalars(select(Item).where(Item.identity.has(id=identity_id))).all()
        stored = session.scalars(select(Embedding).where(Embedding.slot.in_([item.slot for item in items])))
        marks = {f"embedding {row.slot} {row.model_version}": row.values[32:64] for row in stored}
    for item in items:
        path = settings.crops_dir / item.sha256[:2] / item.sha256[2:4] / item.sha256
        content = path.read_bytes()
        marks[f"crop {item.id}"] = content
        marks[f"slice {item.id}"] = content[len(content) // 2 :][:64]
    return marks | {"name": identity_id.encode(), "notes": f"notes on {identity_id}".encode()}


def found_on_disk(settings: Settings, marks: dict[str, bytes]) -> set[str]:
    """Return the marks whose bytes occur in a file of the data folder or of a database beside it."""
    found: set[str] = set()
    for path in settings.data_dir.parent.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found |= {name for name, mark in marks.items() if mark in content}
    return found


def describe(settings: Settings, *identity_ids: str) -> None:
    """Set name, notes and an attribute of identities, as PATCH /identities does."""
    with opened(settings) as sessions, transaction(sessions) as change:
        for identity_id in identity_ids:
            values = {"name": identity_id, "notes": f"notes on {identity_id}", "is_kept": True}
            change.session.execute(update(Identity).where(Identity.id == identity_id).values(values))
            key = change.session.scalars(select(Identity.key).where(Identity.id == identity_id)).one()
            change.session.add(Attribute(identity_key=key, name="hat", value=identity_id))
