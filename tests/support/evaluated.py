"""A gallery of labelled people, and evaluations of model versions on it."""

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
from sqlalchemy import select, update

from draw_people import photograph
from live_server import (
    encode,
    enroll,
    wait_for_job,
)
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.tables import Embedding

NUM_PEOPLE, NUM_CAMERAS = 12, 3


def shoot(person: int, camera: int) -> bytes:
    """Return a crop of a person. A network with random weights hardly recognises the person."""
    return encode(photograph(person, camera, 0), quality=95)


def enroll_people(
    client: httpx.Client, num: int = NUM_PEOPLE, first: int = 0, draw: Callable[[int, int], bytes] = shoot
) -> None:
    for camera in range(1, NUM_CAMERAS + 1):
        for person in range(first, first + num):
            enroll(client, draw(person, camera), identity_id=f"p{person}", camera_id=f"c{camera}")


def evaluate(client: httpx.Client, version: str) -> dict[str, Any]:
    answer = client.post(f"/models/{version}/evaluate")
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"
    return wait_for_job(client, answer.headers["location"])


def spoil(settings: Settings, version: str) -> None:
    """Replace the embeddings of a version by random ones."""
    rng = np.random.default_rng(0)
    engine = make_engine(settings.database_url)
    with make_sessions(engine).write.begin() as session:
        for slot in session.scalars(select(Embedding.slot).where(Embedding.model_version == version)).all():
            values = rng.normal(size=64)
            half = (values / np.linalg.norm(values)).astype("<f2").tobytes()
            wanted = Embedding.slot == slot, Embedding.model_version == version
            session.execute(update(Embedding).where(*wanted).values(values=half))
    engine.dispose()
