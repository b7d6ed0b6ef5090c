"""H10: /readyz asks the database, and a request never waits long for one that hangs."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from live_server import crop, enroll, images, serve, wait_until
from own_postgres import OwnPostgres
from service.api.readiness import Readiness
from service.errors import DatabaseUnavailable
from service.settings import Settings
from service.store.database import make_engine, make_sessions, migrate, rewrite
from service.store.failures import to_service_error
from service.store.probe import Probe
from service.store.store import Store
from service.store.timeouts import answer_within


@contextmanager
def hanging(engine: Engine, pid: int) -> Iterator[None]:
    """Stop the processes of a PostgreSQL server, which then answers nobody; its sockets stay open."""
    with engine.connect() as connection:
        pids = connection.scalars(text("SELECT pid FROM pg_stat_activity")).all()
    for one in (pid, *pids):
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in (*pids, pid):
            os.kill(one, signal.SIGCONT)


def ask(client: httpx.Client) -> tuple[int, str, float]:
    started_s = time.monotonic()
    answer = client.get("/readyz")
    return answer.status_code, answer.json().get("code", ""), time.monotonic() - started_s


@contextmanager
def asking_with_keys(client: httpx.Client) -> Iterator[list[int]]:
    """Enrol by several threads with Idempotency-Keys, and collect the statuses of the answers."""
    statuses: list[int] = []
    is_over = Event()

    def ask(thread: int) -> None:
        for number in count():
            if is_over.is_set():
                return
            headers = {"Idempotency-Key": f"{thread}-{number}"}
            answer = client.post("/gallery", files=images(crop(100 + thread)), headers=headers)
            statuses.append(answer.status_code)

    threads = [Thread(target=ask, args=(thread,)) for thread in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_h10_a_truncated_sqlite_file_is_not_ready(settings: Settings, share: float) -> None:
    path = settings.data_dir / "gallery.sqlite3"
    with serve(settings) as client:
        for seed in range(8):
            enroll(client, crop(seed))
        assert ask(client)[0] == 200
    with serve(settings) as client:
        whole = path.read_bytes()
        os.truncate(path, int(len(whole) * share))
        status, code, took_s = ask(client)
        assert (status, code) == (503, "database_damaged")
        assert took_s < 2
        assert client.get("/livez").status_code == 200
        path.write_bytes(whole)
        wait_until(lambda: ask(client)[0] == 200)


def test_h10_a_database_that_stops_or_hangs_is_told_within_two_seconds(
    own_postgres: OwnPostgres, tmp_path: Path, make_settings: Callable[..., Settings]
) -> None:
    with serve(make_settings(tmp_path / "data", database_url=own_postgres.url)) as client:
        enroll(client, crop(1))
        assert ask(client)[0] == 200
        engine = make_engine(own_postgres.url)
        with hanging(engine, own_postgres.pid):
            for _ in range(2):
                status, code, took_s = ask(client)
                assert (status, code) == (503, "database_unavailable")
                assert took_s < 2.5
            assert client.get("/livez").elapsed.total_seconds() < 1
        wait_until(lambda: ask(client)[0] == 200)
        engine.dispose()
        with asking_with_keys(client) as statuses:
            wait_until(lambda: 201 in statuses)
            own_postgres.stop()
            wait_until(lambda: 503 in statuses)
        assert set(statuses) <= {200, 201, 503}  # H16: never 500
        status, code, took_s = ask(client)
        assert (status, code) == (503, "database_unavailable")
        assert took_s < 2.5
        own_postgres.start()
        wait_until(lambda: ask(client)[0] == 200)
        assert client.post("/gallery", files=images(crop(2))).status_code == 201


def test_h10_a_request_gives_up_on_a_server_that_hangs(own_postgres: OwnPostgres) -> None:
    engine = make_engine(own_postgres.url)
    other = make_engine(own_postgres.url)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        with hanging(other, own_postgres.pid), answer_within(0.5), pytest.raises(DBAPIError) as failed:
            connection.execute(text("SELECT 1"))
    assert isinstance(to_service_error(failed.value), DatabaseUnavailable)
    with answer_within(5), engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()
    other.dispose()


def test_h10_a_request_has_time_outs_and_upkeep_has_none(postgres: Callable[[], str]) -> None:
    engine = make_engine(postgres())
    migrate(engine)
    sessions = make_sessions(engine)

    def limits() -> list[str]:
        with sessions.read() as session:
            return [str(session.scalar(text(f"SHOW {name}_timeout"))) for name in ("statement", "lock")]

    with answer_within(14):
        assert limits() == ["12s", "10s"]
    assert limits() == ["0", "0"]
    assert rewrite(engine, 0)
    with answer_within(14):
        assert limits() == ["12s", "10s"]
    engine.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        "SET LOCAL statement_timeout = 50; SELECT pg_sleep(5)",
        "SET LOCAL lock_timeout = 50; SELECT newest_change FROM galleries FOR UPDATE",
        "SELECT pg_terminate_backend(pg_backend_pid())",
    ],
)
def test_h10_a_time_out_or_a_lost_connection_is_503(postgres: Callable[[], str], statement: str) -> None:
    engine = make_engine(postgres())
    migrate(engine)
    with make_sessions(engine).write.begin() as holder:
        holder.execute(text("SELECT newest_change FROM galleries FOR UPDATE"))
        with engine.connect() as connection, pytest.raises(DBAPIError) as failed:
            connection.exec_driver_sql(statement)
    assert isinstance(to_service_error(failed.value), DatabaseUnavailable), failed.value
    engine.dispose()


def test_h10_the_probe_asks_over_a_connection_of_its_own(engine: Engine) -> None:
    probe = Probe(engine)
    taken = [engine.connect() for _ in range(15)]
    assert probe.ask() is None
    for connection in taken:
        connection.close()
    probe.close()


def test_h10_requests_that_come_while_others_get_their_answer_are_answered(settings: Settings) -> None:
    engine = make_engine(settings.database_url)
    readiness = Readiness(Store(settings, make_sessions(engine)))

    async def ask_again_and_again() -> None:
        for _ in range(5):
            await readiness.require()

    async def ask_at_once() -> None:
        await asyncio.gather(*[ask_again_and_again() for _ in range(3)])

    asyncio.run(ask_at_once())
    readiness.close()
    engine.dispose()
