"""H9, its brothers: a jump of the clock lets no request be done twice, and keeps no lease alive for a day."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import Engine, update

from service.api.claims import Claim, Claims
from service.errors import IdempotencyInProgress
from service.jobs.jobs import SECOND_LOOK_S, Watch, add_job, claim_job
from service.settings import Settings
from service.store.database import make_sessions
from service.store.store import Store
from service.store.tables import Job, KeptAnswer, Retention, now
from set_clock import SetClock

DAY = timedelta(days=1)


@pytest.fixture
def time() -> SetClock:
    return SetClock()


@pytest.fixture
def store(engine: Engine, tmp_path: Path, time: SetClock) -> Iterator[Store]:
    store = Store(Settings(data_dir=tmp_path), make_sessions(engine), time.clock)
    yield store
    store.stopping.set()


def shift(store: Store, by: timedelta) -> None:
    """Let the time stamps of leases look as if the clock had jumped by so much since."""
    with store.write() as session:
        session.execute(update(KeptAnswer).values(alive_at=now() - by))
        session.execute(update(Job).where(Job.state == "running").values(alive_at=now() - by))


@pytest.mark.parametrize("jump", [DAY, -DAY, timedelta(minutes=1)])
def test_h9_a_job_is_not_done_twice_after_a_jump(store: Store, time: SetClock, jump: timedelta) -> None:
    with store.change() as change:
        add_job(change, "import")
    one, other = Watch(time.clock), Watch(time.clock)
    job = claim_job(store, "import", one)
    assert job is not None
    for _ in range(6):  # its process lives, and writes its time every half second
        shift(store, jump)
        assert claim_job(store, "import", other) is None
        time.go_on(seconds=0.5)
    assert claim_job(store, "import", other) is None
    time.go_on(seconds=SECOND_LOOK_S)  # its process has died
    assert (again := claim_job(store, "import", other)) is not None
    assert again.id == job.id


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_h9_a_request_under_way_is_not_done_twice_after_a_jump(store: Store, jump: timedelta) -> None:
    first, other = Claims(store), Claims(store)
    assert first.take(Claim("key", "same")) is None
    shift(store, jump)
    with pytest.raises(IdempotencyInProgress):
        first.take(Claim("key", "same"))  # its own process needs no clock
    shift(store, jump)

    def say_so() -> None:
        store.stopping.wait(0.5)
        first.keep_alive()

    alive = Thread(target=say_so)
    alive.start()
    with pytest.raises(IdempotencyInProgress):
        other.take(Claim("key", "same"))
    alive.join()
    shift(store, jump)
    assert other.take(Claim("key", "same")) is None  # the first process has died


def test_h9_an_answer_is_not_forgotten_because_the_clock_has_jumped_ahead(store: Store) -> None:
    claims, claim = Claims(store), Claim("key", "same")
    claims.take(claim)
    claim.answer = (201, None, b"{}")
    claims.release(claim)
    with store.write() as session:  # a day ago by the clock, a minute ago by what is known of the time
        session.execute(update(KeptAnswer).values(created_at=now() - 2 * DAY))
        session.execute(update(Retention).values(checked_at=now() - 2 * DAY + timedelta(minutes=1)))
    claims.delete_old()
    kept = claims.take(Claim("key", "same"))
    assert kept is not None
    assert kept.status == 201
    with store.write() as session:  # a person has accepted the clock
        session.execute(update(Retention).values(checked_at=now()))
    claims.delete_old()
    assert claims.take(Claim("key", "same")) is None
