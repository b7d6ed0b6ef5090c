"""The change log, and several servers on one database that answer alike, on SQLite and PostgreSQL."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest
from sqlalchemy import Engine, select

from live_server import activate, crop, enroll, search, serve, upload_model
from service.settings import Settings
from service.store.changes import newest_change, transaction
from service.store.database import make_sessions
from service.store.tables import Change


def test_numbers_have_no_gaps_whatever_fails(engine: Engine) -> None:
    sessions = make_sessions(engine)

    def change(number: int) -> None:
        with suppress(ZeroDivisionError), transaction(sessions) as changing_now:
            for _ in range(number % 3):
                changing_now.note("removed", number)
            assert 1 / (number % 4)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(change, range(60)))
    with sessions.read() as session:
        sequences = session.scalars(select(Change.sequence).order_by(Change.sequence)).all()
        expected = sum(number % 3 for number in range(60) if number % 4)
        assert sequences == list(range(1, expected + 1))
        assert newest_change(session) == expected


def test_a_follower_never_passes_a_change_that_commits_late(engine: Engine) -> None:
    """Two writers overlap; the first to take a number is the last to come to its commit.

    With numbers from a sequence of the database the second would commit 2 while 1 is still open: a follower
    would read 2, note that it is at 2, and never see 1.
    """
    sessions = make_sessions(engine)
    has_number, may_commit = Event(), Event()

    def write_slowly() -> None:
        with transaction(sessions) as change:
            change.note("removed", 100)
            change.session.flush()
            has_number.set()
            may_commit.wait()

    def write_fast() -> None:
        with transaction(sessions) as change:
            change.note("removed", 200)

    def follow() -> None:
        with sessions.read() as session:
            newest = newest_change(session)
            statement = select(Change.slot).where(Change.sequence > followed_to[-1]).order_by(Change.sequence)
            seen.extend(session.scalars(statement.where(Change.sequence <= newest)))
            followed_to.append(newest)

    seen: list[int | None] = []
    followed_to = [0]
    slow, fast = Thread(target=write_slowly), Thread(target=write_fast)
    slow.start()
    has_number.wait()
    fast.start()
    for _ in range(10):
        follow()
        time.sleep(0.02)
    may_commit.set()
    slow.join()
    fast.join()
    follow()
    assert seen == [100, 200]


def test_a_change_that_fails_leaves_nothing(engine: Engine) -> None:
    sessions = make_sessions(engine)
    with pytest.raises(ZeroDivisionError), transaction(sessions) as change:
        assert 1 / (change.note("removed", 1) - 1)
    with sessions.read() as session:
        assert newest_change(session) == 0
        assert session.scalars(select(Change)).all() == []


@pytest.fixture
def three(either_settings: Settings) -> Iterator[list[httpx.Client]]:
    """Clients of three servers on one database and one data folder."""
    with ExitStack() as stack:
        yield [stack.enter_context(serve(either_settings)) for _ in range(3)]


def found_ids(client: httpx.Client, seed: int) -> set[str]:
    answer = search(client, crop(seed), group_by="item", top_k=1000)
    return {match["items"][0]["id"] for match in answer["matches"]}


def test_every_server_finds_what_any_has_acknowledged(three: list[httpx.Client]) -> None:
    chance = random.Random(0)
    alive: set[str] = set()
    for step in range(40):
        writer, reader = chance.sample(three, 2)
        if alive and chance.random() < 0.3:
            gone = chance.choice(sorted(alive))
            assert writer.delete(f"/gallery/{gone}").status_code == 204
            alive.remove(gone)
        else:
            alive |= {item["id"] for item in enroll(writer, crop(step), crop(step, 1))}
        assert found_ids(reader, step) == alive


def test_servers_that_change_the_gallery_at_once_end_up_alike(three: list[httpx.Client]) -> None:
    def work(number: int) -> set[str]:
        client = three[number % 3]
        mine = [enroll(client, crop(7), crop(number), identity_id="shared")[0] for _ in range(3)]
        assert client.delete(f"/gallery/{mine[0]['id']}").status_code == 204
        return {mine[0]["id"]}

    with ThreadPoolExecutor(6) as threads:
        deleted = set().union(*threads.map(work, range(6)))
    galleries = [found_ids(client, 7) for client in three]
    assert galleries[0] == galleries[1] == galleries[2]
    assert len(galleries[0]) == 6 * 5
    assert not galleries[0] & deleted
    for client, item_id in zip(three, sorted(galleries[0]), strict=False):
        assert client.get(f"/gallery/{item_id}/image").status_code == 200


def test_a_network_that_one_server_has_activated_serves_on_all(
    three: list[httpx.Client], another_checkpoint: Path
) -> None:
    enroll(three[0], *[crop(seed) for seed in range(5)])
    version = upload_model(three[1], another_checkpoint).json()["version"]
    assert activate(three[1], version)["state"] == "succeeded"
    for client in three:
        answer = search(client, crop(3))
        assert answer["model_version"] == version
        assert answer["matches"][0]["score"] > 0.999
    (item,) = enroll(three[2], crop(9))
    assert item["id"] in found_ids(three[0], 9)
