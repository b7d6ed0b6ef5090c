"""Another network takes over a gallery in use, through kills, and is taken back: nothing is amiss."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from sqlalchemy import update

from live_server import TIMEOUT_S, crop, upload_model, wait_for_job
from model.checkpoint import load_checkpoint
from model.embedder import Embedder
from service.jobs.jobs import LEASE
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.store.tables import Job, KeptAnswer, now
from service.upkeep.check import check
from swapped_server import Labelled, Load, Server, activate_under_kills, enroll_all, lost

NUM_PEOPLE, NUM_PEOPLE_LONG, NUM_CAMERAS = 20, 30, 4
KILL_AT, KILL_AT_LONG = [0.3], [0.3, 0.6]
"""Shares of the items: the server is killed when so many have embeddings of the new network."""


def test_a_network_takes_over_and_is_taken_back_while_eight_clients_work(
    tmp_path: Path,
    make_settings: Callable[..., Settings],
    tiny_checkpoint: Path,
    another_checkpoint: Path,
    is_long: bool,
) -> None:
    num_people, kill_at = (NUM_PEOPLE_LONG, KILL_AT_LONG) if is_long else (NUM_PEOPLE, KILL_AT)
    settings = make_settings(tmp_path / "data", backfill_share=0.03)  # slow enough to be killed on the way
    gallery = [
        Labelled(crop(seed, 1 + camera), str(seed), str(camera))
        for seed in range(num_people)
        for camera in range(NUM_CAMERAS)
    ]
    queries = [Labelled(crop(seed, 99), str(seed), "0") for seed in range(num_people)]
    server = Server(
        tmp_path,
        default_checkpoint=tiny_checkpoint,
        backfill_share=settings.backfill_share,
    )
    load = Load(server, queries, gallery, rate=16)

    def on_killed(num_kills_left: int) -> None:
        """Let the leases of what the killed server did be over, and the last life need not be slow."""
        engine = make_engine(settings.database_url)
        with engine.begin() as connection:
            connection.execute(update(Job).values(alive_at=None))
            connection.execute(update(KeptAnswer).values(alive_at=now() - 2 * LEASE))
        engine.dispose()
        if num_kills_left == 0:
            server.change(backfill_share=0.2)

    with httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as client:
        server.start(client)
        try:
            enroll_all(client, gallery)
            first = client.get("/models/active").json()["version"]
            second = upload_model(client, another_checkpoint).json()["version"]
            with load.running():
                load.phase("before")
                load.wait_for_all()
                load.phase("during")
                swap = activate_under_kills(server, client, second, kill_at, on_killed)
                load.phase("after")
                load.wait_for_all()
                back = client.post("/models/rollback").raise_for_status().headers["location"]
                back_job = wait_for_job(client, back)
                load.phase("back")
                load.wait_for_all()
            assert client.get("/models/active").json()["version"] == first
            assert lost(client, load.seen, len(gallery)) == []
        finally:
            server.stop()
    assert swap.job["state"] == back_job["state"] == "succeeded"
    assert len(swap.lives) == len(kill_at) + 1
    assert load.seen.failed == []
    assert load.seen.mixed({first: "before", second: "after"}) == []
    assert {a.version for a in load.seen.answers} == {first, second}
    assert len(load.seen.enrolled) > 10
    assert len(server.held_s()) == 2
    for phases, version, path in (
        (("before", "during", "back"), first, tiny_checkpoint),
        (("after",), second, another_checkpoint),
    ):
        expected = rank1_by_brute_force(Embedder(load_checkpoint(path)), queries, gallery)
        assert expected > 0.5
        for phase in phases:
            assert abs(load.seen.rank1(phase, version) - expected) < 1.2 / num_people, (
                phase
            )  # one query, by its rounding
    engine = make_engine(settings.database_url)
    report = check(Store(settings, make_sessions(engine)))
    engine.dispose()
    assert report.findings == []


def rank1_by_brute_force(embedder: Embedder, queries: list[Labelled], gallery: list[Labelled]) -> float:
    """Return the share of queries whose most similar crop is of them, their own camera's left out."""
    queries_QD, gallery_GD = (
        embedder.embed([Image.open(BytesIO(item.content)) for item in items]) for items in (queries, gallery)
    )
    num_hits = 0
    for query, scores_G in zip(queries, queries_QD @ gallery_GD.T, strict=True):
        ranked = [gallery[i] for i in np.argsort(-scores_G)]
        valid = [item for item in ranked if (item.pid, item.camera) != (query.pid, query.camera)]
        num_hits += valid[0].pid == query.pid
    return num_hits / len(queries)
