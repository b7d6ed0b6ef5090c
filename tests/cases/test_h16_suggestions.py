"""H16: suggestions are exact, one request compares at a time, and cores and threads are left to searches."""

import itertools
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from interrupted import Process
from live_server import TIMEOUT_S, crop, enroll, search, serve, wait_until
from recorded_priority import RecordedPriority
from service.errors import ClientGone, SuggestionsBusy
from service.gallery import enrolment as gallery
from service.gallery.metadata import ItemMetadata
from service.gallery.selection import Selection
from service.index import Columns
from service.people.comparison import (
    BLOCK,
    MAX_FRAME,
    ROWS,
    STEP,
    People,
    best_rows,
    impossible_pairs,
    topk_pairs,
)
from service.people.suggestions import MAX_REQUESTS, suggest, turn
from service.serving.priority import COMPARISON_WAITS_S
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.tables import Embedding, Item, Rejection

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
NUM_THREADS = 40
"""Requests that a process works on at a time."""

Pair = tuple[float, int, int]
Halves = np.ndarray[Any, np.dtype[np.float16]]


def exact_embeddings(num: int, seed: int) -> Halves:
    """Draw embeddings of four values 0.5 or -0.5, whose means and scores no rounding changes."""
    rng = np.random.default_rng(seed)
    rows_ND = np.zeros((num, 16), np.float16)
    for row_D in rows_ND:
        row_D[rng.choice(16, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return rows_ND


def twin(
    rows_ND: Halves, frames: list[tuple[str, int] | None], rejected: set[tuple[int, int]], least: float
) -> list[Pair]:
    """Look at one pair of rows after the other, each the only row of its identity."""
    scores_NN = rows_ND.astype(np.float64) @ rows_ND.astype(np.float64).T
    pairs = []
    for a, b in itertools.combinations(range(len(rows_ND)), 2):
        is_one_frame = frames[a] is not None and frames[a] == frames[b]
        if scores_NN[a, b] >= least and not is_one_frame and not {(a, b), (b, a)} & rejected:
            pairs.append((float(scores_NN[a, b]), a, b))
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))


def test_h16_of_many_tied_pairs_the_same_are_found_in_the_same_order_as_by_a_loop() -> None:
    num = STEP + BLOCK + 9
    rng = np.random.default_rng(0)
    rows_ND = exact_embeddings(num, seed=1)
    crowd = dict.fromkeys(rng.choice(num, 2 * MAX_FRAME, replace=False).tolist(), ("square", 0))
    frames = [crowd.get(row) or (("door", row % 700) if row % 3 else None) for row in range(num)]
    rejected = {(int(a), int(b)) for a, b in rng.integers(0, num, (5_000, 2))}
    columns = Columns.empty().appended(
        np.arange(1, num + 1),
        list(range(num)),
        [frame and frame[0] for frame in frames],
        [frame and EPOCH + timedelta(seconds=frame[1]) for frame in frames],
        [None] * num,
    )
    people = People.of(columns, np.arange(num), rows_ND)
    impossible = impossible_pairs(columns, people, rejected)
    expected = twin(rows_ND, frames, rejected, 0.75)
    ties = [score for score, _, _ in expected]
    assert len(expected) > 2_000
    assert ties[1_000] == ties[1_001]
    for k in (1, 20, 1_000, len(expected) + 1):
        steps = itertools.count()
        assert topk_pairs(people, k, 0.75, impossible, None, partial(next, steps)) == expected[:k]
        num_products = sum(-(-(num - first) // STEP) for first in range(0, num, BLOCK))
        assert next(steps) == -(-num // ROWS) + num_products
    assert best_rows(people, expected).tolist() == [[a, b] for _, a, b in expected]
    for key in (0, BLOCK, num - 1):
        of_one = [(score, key, a + b - key) for score, a, b in expected if key in (a, b)]
        assert topk_pairs(people, num, 0.75, impossible, key) == of_one


def test_h16_the_rows_of_a_pair_are_those_of_a_loop_and_the_first_of_a_tie() -> None:
    num = 2 * ROWS + 50
    rows_ND = exact_embeddings(num + 2, seed=2)
    columns = Columns.empty().appended(
        np.arange(1, num + 3), [max(0, row - num + 1) for row in range(num + 2)], *[[None] * (num + 2)] * 3
    )
    people = People.of(columns, np.arange(num + 2), rows_ND)
    for other in (1, 2):
        row = num + other - 1
        scores_N = rows_ND[:num].astype(np.float64) @ rows_ND[row].astype(np.float64)
        first = max(range(num), key=lambda one: (scores_N[one], -one))
        assert (scores_N == scores_N[first]).sum() > 1
        assert best_rows(people, [(0.0, 0, other), (0.0, other, 0)]).tolist() == [[first, row], [row, first]]
    both = best_rows(people, [(0.0, 0, 1), (0.0, 0, 2)])
    assert both[1:].tolist() == best_rows(people, [(0.0, 0, 2)]).tolist()
    assert len(best_rows(people, [])) == 0


def pairs_of_database(settings: Settings) -> dict[frozenset[str], float]:
    """Return every possible pair of identities with its score, from the rows of the database."""
    engine = make_engine(settings.database_url)
    with make_sessions(engine).read() as session:
        rejections = session.execute(select(Rejection.identity_key, Rejection.slot)).all()
        rejected = {(key, session.get_one(Item, slot).identity_key) for key, slot in rejections}
        people = defaultdict(list)
        for item, values in session.execute(
            select(Item, Embedding.values).join(Embedding, Embedding.slot == Item.slot)
        ):
            embedding_D = np.frombuffer(values, "<f2").astype(np.float64)
            frame = (item.camera_id, item.captured_at)
            people[item.identity_key, item.identity.id].append((embedding_D, frame))
    engine.dispose()
    pairs = {}
    for (a, first), (b, second) in itertools.combinations(people, 2):
        seen, others = people[a, first], people[b, second]
        frames = [{frame for _, frame in items if None not in frame} for items in (seen, others)]
        if not frames[0] & frames[1] and not {(a, b), (b, a)} & rejected:
            means = [np.mean([embedding_D for embedding_D, _ in items], axis=0) for items in (seen, others)]
            lengths = np.linalg.norm(means[0]) * np.linalg.norm(means[1])
            pairs[frozenset((first, second))] = float(means[0] @ means[1] / lengths)
    return pairs


def check_suggestions(client: httpx.Client, settings: Settings) -> list[frozenset[str]]:
    """Compare the answers of the service with those of a loop over the database; return all pairs."""
    expected = pairs_of_database(settings)
    answer = client.get("/identities/suggestions", params={"min_score": -1, "limit": 1000}).json()
    found = {
        frozenset(side["identity_id"] for side in pair["identities"]): pair["score"]
        for pair in answer["suggestions"]
    }
    assert found == pytest.approx(expected, abs=1e-5)
    best = client.get("/identities/suggestions", params={"min_score": -1, "limit": 3}).json()
    assert best["suggestions"] == answer["suggestions"][:3]
    return list(found)


def test_h16_after_each_correction_the_pairs_are_those_of_a_loop_over_the_database(
    client: httpx.Client, either_settings: Settings
) -> None:
    names = [f"person {number}" for number in range(8)]
    for number, name in enumerate(names):
        for second in (number // 2, 30 + number):
            enroll(
                client,
                crop(number // 3, second // 30),  # so that some people look exactly alike
                identity_id=name,
                camera_id="door" if second < 30 else f"camera {number}",
                captured_at=f"2026-01-01T00:00:{second:02}Z",
                on_duplicate="store",
            )
    whole = check_suggestions(client, either_settings)
    assert len(whole) == 8 * 7 // 2 - 4
    (item, *_) = client.get(f"/identities/{names[0]}/items").json()["items"]
    done = []
    for path, body in (
        (f"/identities/{names[7]}/reject", {"item_ids": [item["id"]]}),
        (f"/identities/{names[2]}/merge", {"source_ids": [names[5]]}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        done.append(answer.json()["operation_id"])
        assert len(check_suggestions(client, either_settings)) < len(whole)
    for operation_id in reversed(done):
        assert client.post(f"/operations/{operation_id}/undo").status_code == 200
        check_suggestions(client, either_settings)
    assert set(check_suggestions(client, either_settings)) == set(whole)


def test_h16_one_request_compares_at_a_time_and_few_wait() -> None:
    num = MAX_REQUESTS + 2
    inside, most, refused = [0], [0], threading.Semaphore(0)

    def ask(_: int) -> bool:
        try:
            with turn(TIMEOUT_S):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1
        except SuggestionsBusy:
            refused.release()
            return False
        return True

    with ThreadPoolExecutor(num) as threads:
        with turn():
            answers = threads.map(ask, range(num))
            for _ in range(num - (MAX_REQUESTS - 1)):
                assert refused.acquire(timeout=TIMEOUT_S)
        assert sorted(answers) == [False] * 3 + [True] * (MAX_REQUESTS - 1)
    assert most == [1]
    with turn(0), pytest.raises(SuggestionsBusy), turn(0.01):
        pass
    with turn(0):
        pass


def test_h16_more_requests_than_threads_leave_room_for_a_search(settings: Settings) -> None:
    num = 2 * NUM_THREADS
    with serve(settings) as client:
        enroll(client, crop(1), identity_id="anna")
        enroll(client, crop(2), identity_id="bert")
        with ThreadPoolExecutor(num) as threads:
            with turn():
                answers = threads.map(lambda _: client.get("/identities/suggestions"), range(num))
                assert search(client, crop(1))["matches"][0]["identity_id"] == "anna"
                refused = next(answers)
            assert {answer.status_code for answer in answers} <= {200, 503}
        assert (refused.status_code, refused.json()["code"]) == (503, "suggestions_busy")
        assert refused.headers["retry-after"] == "5"
        assert client.get("/identities/suggestions").status_code == 200


@pytest.fixture
def process(settings: Settings) -> Iterator[Process]:
    """A process on a gallery with two identities."""
    process = Process(settings)
    metadata = [ItemMetadata(identity_id=name) for name in ("anna", "bert")]
    gallery.enroll(process, [BytesIO(crop(1)), BytesIO(crop(2))], metadata)
    yield process
    process.end()


def test_h16_every_step_of_a_comparison_gives_way_to_searches_for_a_moment(process: Process) -> None:
    process.priority = priority = RecordedPriority()
    with priority.search():
        _, found = suggest(process, Selection(), 20, -1.0, None)
    assert len(found) == 1
    assert len(priority.waits) > 1
    assert set(priority.waits) == {(COMPARISON_WAITS_S, 1)}
    priority.waits.clear()
    suggest(process, Selection(), 20, -1.0, "anna")
    assert len(priority.waits) > 1
    assert set(priority.waits) == {(COMPARISON_WAITS_S, 0)}


def test_h16_a_comparison_ends_with_its_client_and_gives_its_turn_back(process: Process) -> None:
    checks = iter([None, ClientGone()])

    def check() -> None:
        if error := next(checks):
            raise error

    with pytest.raises(ClientGone):
        suggest(process, Selection(), 20, -1.0, None, check)
    assert next(checks, "no more steps") == "no more steps"
    with turn(0):
        pass


def test_h16_a_client_that_leaves_while_it_waits_costs_no_comparison(settings: Settings) -> None:
    with capture_logs() as logs, serve(settings) as client:
        enroll(client, crop(1), identity_id="anna")
        enroll(client, crop(2), identity_id="bert")
        address = (client.base_url.host, client.base_url.port or 80)

        def statuses() -> list[int]:
            return [one["status"] for one in list(logs) if one.get("path", "").startswith("/identities")]

        def is_dropped() -> bool:
            num = len(statuses())
            with turn(TIMEOUT_S), socket.create_connection(address) as connection:
                connection.sendall(b"GET /identities/suggestions HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until(lambda: len(statuses()) > num)
            return statuses()[-1] == 408

        wait_until(is_dropped)
