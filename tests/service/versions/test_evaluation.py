"""Judging a model version on a gallery's own labelled items: the job, its result, and what it decides."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import create_engine, select, text

from draw_people import photograph
from evaluated import enroll_people, evaluate, shoot, spoil
from killed_server import start_process, wait_for
from live_server import (
    activate,
    crop,
    encode,
    enroll,
    find_free_port,
    images,
    search,
    serve,
    upload_model,
    wait_for_job,
)
from model.strangers import StrangerRates
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.tables import Embedding, Job, now
from service.versions.evaluation import comparison_of, is_worse

NUM_PEOPLE, NUM_CAMERAS = 12, 3
NUM_COUNTED = 60
"""People of whom an evaluation counts how often they score as high by chance."""


def active(client: httpx.Client) -> str:
    return str(client.get("/readyz").json()["model_version"])


def embeddings_of(settings: Settings, version: str) -> dict[int, NDArray[np.float16]]:
    engine = make_engine(settings.database_url)
    statement = select(Embedding.slot, Embedding.values).where(Embedding.model_version == version)
    with make_sessions(engine).read() as session:
        found = {slot: np.frombuffer(values, "<f2") for slot, values in session.execute(statement)}
    engine.dispose()
    return found


@contextmanager
def comparing(settings: Settings, version: str) -> Iterator[dict[str, Any] | None]:
    engine = make_engine(settings.database_url)
    with make_sessions(engine).read() as session:
        yield comparison_of(session, version)
    engine.dispose()


def test_both_versions_are_judged_on_the_same_items(
    client: httpx.Client, either_settings: Settings, another_checkpoint: Path
) -> None:
    enroll_people(client)
    enroll(client, crop(900), crop(901), camera_id="c1")  # of nobody in particular: not judged
    version, old = upload_model(client, another_checkpoint).json()["version"], active(client)
    job = evaluate(client, version)
    assert (job["state"], job["kind"], job["error"]) == ("succeeded", "evaluation", None)
    assert job["done"] == job["total"]
    result = job["result"]
    assert (result["model_version"], result["active_version"]) == (version, old)
    assert (result["num_items"], result["num_queries"], result["num_left_out"]) == (36, 36, 0)
    for one in (version, old):
        found = result["versions"][one]
        assert client.get(f"/models/{one}").json()["evaluation"] == found
        assert [row["fmr"] for row in found["thresholds"]] == [1e-1, 1e-2, 1e-3, 1e-4]
        assert found["num_different_pairs"] == 36 * 33
        assert found["num_same_pairs"] == 36 * 2
        assert found["strangers"] is None  # of too few people
        vectors = embeddings_of(either_settings, one)
        rows = [vectors[slot].astype(float) for slot in sorted(vectors)][:36]
        people = [place % NUM_PEOPLE for place in range(36)]
        assert found["rank1"] == pytest.approx(loop_rank1(rows, people), abs=0.01)
    assert set(embeddings_of(either_settings, version)) < set(embeddings_of(either_settings, old))
    gain = result["difference"]["rank1"]
    ranks = [result["versions"][one]["rank1"] for one in (version, old)]
    assert gain["value"] == pytest.approx(ranks[0] - ranks[1], abs=0.01)
    assert gain["low"] <= gain["value"] <= gain["high"]
    again = evaluate(client, version)["result"]
    assert again["difference"] == result["difference"]


def loop_rank1(rows: list[NDArray[Any]], people: list[int]) -> float:
    """Return the share whose nearest other item is of the same person; each camera saw each once."""
    hits = 0
    for one, row in enumerate(rows):
        scores = [row @ other / np.linalg.norm(other) for other in rows]
        scores[one] = -2
        hits += people[int(np.argmax(scores))] == people[one]
    return 100 * hits / len(rows)


def test_a_version_that_is_worse_has_an_interval_below_zero(
    client: httpx.Client, either_settings: Settings, another_checkpoint: Path
) -> None:
    enroll_people(client, draw=crop)  # which any network tells apart
    version, old = upload_model(client, another_checkpoint).json()["version"], active(client)
    with comparing(either_settings, version) as comparison:
        assert comparison is None
    evaluate(client, version)
    spoil(either_settings, version)
    result = evaluate(client, version)["result"]
    assert result["difference"]["mAP"]["high"] < 0
    assert is_worse(result)
    with comparing(either_settings, version) as comparison:
        assert comparison == result
    with comparing(either_settings, old) as comparison:
        assert comparison is None
    assert not is_worse(evaluate(client, old)["result"])
    enroll_people(client, num=2, first=50)
    with comparing(either_settings, version) as comparison:
        assert comparison is None, "the gallery has become another one"


def test_too_few_labels_fail_the_job_with_what_is_needed(client: httpx.Client) -> None:
    version = active(client)
    for person in range(4):
        enroll(client, crop(person), crop(person, 1), identity_id=f"p{person}", camera_id="one")
        job = evaluate(client, version)
        assert job["state"] == "failed"
        assert "at least 2 identities" in job["error"]
        assert "at least 10 such items" in job["error"]
    for person in range(4):
        enroll(client, crop(person, 2), identity_id=f"p{person}", camera_id="two")
    job = evaluate(client, version)
    assert (job["state"], job["result"]["num_queries"]) == ("succeeded", 12)


def test_where_there_are_no_cameras_tracks_do(client: httpx.Client) -> None:
    for person in range(5):
        for walk in ("a", "b"):
            enroll(client, crop(person, ord(walk)), identity_id=f"p{person}", track_id=f"{person}{walk}")
    assert evaluate(client, active(client))["result"]["num_queries"] == 10


def test_an_item_whose_crop_is_gone_is_left_out_and_counted(
    client: httpx.Client, either_settings: Settings, another_checkpoint: Path
) -> None:
    enroll_people(client)
    version = upload_model(client, another_checkpoint).json()["version"]
    sha256 = client.get("/gallery").json()["items"][0]["sha256"]
    (either_settings.crops_dir / sha256[:2] / sha256[2:4] / sha256).unlink()
    result = evaluate(client, version)["result"]
    assert (result["num_left_out"], result["num_items"]) == (1, 35)


def test_an_unknown_version_is_404_and_one_that_is_being_judged_is_not_begun_again(
    client: httpx.Client, either_settings: Settings
) -> None:
    answer = client.post("/models/0123456789ab/evaluate")
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
    version = active(client)
    add_running_job(either_settings, version, is_alive=True)  # as if another process were at it
    answer = client.post(f"/models/{version}/evaluate")
    assert (answer.status_code, answer.json()["id"]) == (202, "f" * 32)


def add_running_job(settings: Settings, version: str, *, is_alive: bool) -> None:
    """Write down an evaluation that another process is at, or was."""
    engine = make_engine(settings.database_url)
    with make_sessions(engine).write.begin() as session:
        session.add(
            Job(
                id="f" * 32,
                kind="evaluation",
                model_version=version,
                state="running",
                done=0,
                total=0,
                created_at=now(),
                alive_at=now() if is_alive else None,
            )
        )
    engine.dispose()


def test_what_a_dead_process_has_left_is_taken_up(client: httpx.Client, either_settings: Settings) -> None:
    enroll_people(client, num=4)
    add_running_job(either_settings, active(client), is_alive=False)
    job = wait_for_job(client, "/jobs/" + "f" * 32)
    assert (job["state"], job["result"]["num_queries"]) == ("succeeded", 12)


def test_a_cancelled_evaluation_leaves_no_judgement(client: httpx.Client, either_settings: Settings) -> None:
    enroll_people(client, num=4)
    version = active(client)
    add_running_job(either_settings, version, is_alive=True)
    answer = client.delete("/jobs/" + "f" * 32)
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    assert client.get(f"/models/{version}").json()["evaluation"] is None
    assert evaluate(client, version)["state"] == "succeeded"
    assert client.get("/jobs/" + "f" * 32).json()["result"] is None


def test_an_evaluation_goes_on_after_a_kill_with_the_embeddings_it_has_made(
    settings: Settings, another_checkpoint: Path
) -> None:
    port = find_free_port()
    process = start_process(settings, port)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_for(client, process)
            for camera in ("a", "b"):
                for person in range(4):
                    crops = [crop(100 * person + shot, ord(camera)) for shot in range(32)]
                    enroll(client, *crops, identity_id=f"p{person}", camera_id=camera)
            version = upload_model(client, another_checkpoint).json()["version"]
            location = client.post(f"/models/{version}/evaluate").headers["location"]
            while client.get(location).json()["done"] == 0:
                pass
            process.kill()
            process.wait()
            made = set(embeddings_of(settings, version))
            engine = create_engine(settings.database_url)
            with engine.begin() as connection:
                connection.execute(text("UPDATE jobs SET alive_at = NULL WHERE state = 'running'"))
            engine.dispose()
            process = start_process(settings, port)
            wait_for(client, process)
            job = wait_for_job(client, location)
            assert (job["state"], job["result"]["num_items"]) == ("succeeded", 256)
            assert made
    finally:
        process.kill()
        process.wait()


def test_an_activation_finds_what_an_evaluation_has_embedded(
    client: httpx.Client, another_checkpoint: Path
) -> None:
    enroll_people(client, num=4)
    version = upload_model(client, another_checkpoint).json()["version"]
    evaluate(client, version)
    assert client.get(f"/models/{version}").json()["num_embedded"] == 12
    assert activate(client, version)["state"] == "succeeded"
    assert search(client, crop(1))["num_searched"] == 12


def test_every_process_decides_by_an_evaluation_once_there_is_one(either_settings: Settings) -> None:
    query = encode(photograph(3, 2, 1), quality=95)
    with serve(either_settings) as client, serve(either_settings) as other:
        for camera in range(1, NUM_CAMERAS + 1):
            crops = [shoot(person, camera) for person in range(NUM_COUNTED)]
            labels = [
                {"identity_id": f"p{person}", "camera_id": f"c{camera}"} for person in range(NUM_COUNTED)
            ]
            enroll(client, *crops, metadata=json.dumps(labels))
        before = search(other, query)
        assert (before["calibration"]["source"], before["calibration"]["num_people"]) == ("none", None)
        unknown = {"decision": None, "expected_strangers": None, "probability_even_prior": None}
        assert all(unknown.items() <= match.items() for match in before["matches"])
        found = evaluate(client, active(client))["result"]["versions"][active(client)]
        for one in (client, other):
            answer = search(one, query, top_k=NUM_COUNTED)
            limits = answer["calibration"]
            assert (limits["source"], limits["num_people"]) == ("evaluation", NUM_COUNTED)
            assert answer["num_identities"] == NUM_COUNTED
            expected = [match["expected_strangers"] for match in answer["matches"]]
            rates = StrangerRates.from_dict(found["strangers"])
            counted = [NUM_COUNTED * rates.rate(match["score"]) for match in answer["matches"]]
            assert expected == pytest.approx(counted, rel=0.01)
            pair = [*images(query), ("other_images", ("other.jpg", query))]
            assert one.post("/verify", files=pair).json()["thresholds"]["source"] == "evaluation"
            chances = [match["probability_even_prior"] for match in answer["matches"]]
            assert chances == sorted(chances, reverse=True)
            assert all(0 <= chance <= 1 for chance in chances)
    with serve(either_settings) as client:
        assert search(client, query)["calibration"] == limits
