"""H9: an expiry of much at once, or after a jump of the clock, waits until a person confirms it."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from alembic import command
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select, text, update
from structlog.testing import capture_logs

from command_line import run
from live_server import crop, wait_until
from service.errors import NothingHeld
from service.gallery.ages import enrolled_at
from service.jobs.jobs import find_job
from service.people.expiry import Expiry, Hold, confirm, find_hold
from service.people.steadiness import DRIFT_S, GAP_S, Reading, Record, is_right
from service.settings import Settings
from service.store.changes import transaction
from service.store.database import _config, make_engine, make_sessions, migrate
from service.store.store import Store
from service.store.tables import Change, Identity, Item, new_id
from set_clock import NOON, SetClock, served_with_a_held_expiry

DAY = timedelta(days=1)


def num_items(store: Store) -> int:
    with store.read() as session:
        return session.scalar(select(func.count()).select_from(Item)) or 0


class Machine:
    """A gallery with a retention of 30 days, on a machine whose clock a test sets."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.sessions = make_sessions(engine)
        self.time = SetClock()
        self.settings = Settings(data_dir=folder, retention_days=30)

    def process(self, **chosen: object) -> Expiry:
        """Start a process, which runs its first expiry."""
        settings = self.settings.model_copy(update=chosen)
        expiry = Expiry(Store(settings, self.sessions, self.time.clock))
        expiry.run()
        return expiry

    def add(self, num: int, days: float = 0, *, captured_days: float | None = None) -> None:
        """Add items that were enrolled, and perhaps captured, so many days ago; the change is of now."""
        now = self.time.wall
        with transaction(self.sessions) as change:
            identity = Identity(id=new_id(), created_at=now)
            for _ in range(num):
                item = Item(slot=change.note("added"), id=new_id(), identity=identity)
                item.created_at = now - days * DAY
                item.captured_at = None if captured_days is None else now - captured_days * DAY
                item.sha256, item.content_type, item.width, item.height = new_id() * 2, "image/jpeg", 64, 128
                change.session.add(item)
            change.session.flush()
            change.session.execute(update(Change).values(at=now))

    @property
    def store(self) -> Store:
        return Store(self.settings, self.sessions, self.time.clock)


@pytest.fixture
def machine(engine: Engine, tmp_path: Path) -> Machine:
    return Machine(engine, tmp_path)


def reason(expiry: Expiry) -> str | None:
    return None if expiry.hold is None else expiry.hold.reason


@pytest.mark.parametrize(
    ("num_old", "num_new", "is_held"),
    [(100, 0, False), (101, 0, True), (101, 404, False), (102, 403, True), (300, 1200, False)],
)
def test_h9_an_expiry_waits_if_it_is_of_more_than_100_items_and_of_more_than_a_fifth(
    machine: Machine, num_old: int, num_new: int, is_held: bool
) -> None:
    machine.add(num_old, 31)
    machine.add(num_new)
    expiry = machine.process()
    assert reason(expiry) == ("share" if is_held else None)
    assert num_items(machine.store) == num_new + (num_old if is_held else 0)


@pytest.mark.parametrize(("share", "is_held"), [(0.0, True), (0.5, True), (0.75, False), (1.0, False)])
def test_h9_the_share_is_a_setting(machine: Machine, share: float, is_held: bool) -> None:
    machine.add(150, 31)
    machine.add(50)
    assert (reason(machine.process(retention_max_share=share)) == "share") is is_held


def test_h9_after_a_confirmation_exactly_what_was_seen_is_erased(machine: Machine) -> None:
    machine.add(150, 31)
    machine.add(200, 29.5)
    expiry = machine.process()
    seen = find_hold(machine.store)
    assert seen is not None
    assert (seen.num_items, seen.num_gallery) == (150, 350)
    machine.time.go_on(days=0.6)  # now the others are past their retention too
    assert confirm(machine.store, seen.as_of) == 150
    machine.add(120, captured_days=40)  # nobody has seen these
    machine.time.go_on(minutes=1)
    assert expiry.run() == 150
    assert expiry.hold is not None
    assert (expiry.hold.num_items, num_items(machine.store)) == (200 + 120, 200 + 120)


def test_h9_what_nobody_has_seen_is_judged_by_itself(machine: Machine) -> None:
    machine.add(150, 31)
    machine.add(200, 29.5)
    machine.add(90)
    expiry = machine.process()
    seen = find_hold(machine.store)
    assert seen
    for _ in range(15):  # the process runs on, while nobody looks
        machine.time.go_on(hours=1)
        expiry.run()
    confirm(machine.store, seen.as_of)
    assert expiry.run() == 150
    assert expiry.hold
    assert (expiry.hold.reason, expiry.hold.num_items, num_items(machine.store)) == ("share", 200, 290)
    with pytest.raises(NothingHeld, match="look again"):
        confirm(machine.store, seen.as_of)


def test_h9_any_expiry_waits_after_a_jump_in_the_process(machine: Machine) -> None:
    machine.add(2, 29)
    machine.add(800)
    expiry = machine.process()
    machine.time.jump(days=2)
    with capture_logs() as lines:
        for _ in range(5):
            expiry.run()
            machine.time.go_on(minutes=1)
    assert (reason(expiry), num_items(machine.store)) == ("clock", 802)
    assert [line["event"].startswith("an expiry waits") for line in lines] == [True]
    machine.time.jump(days=-2)
    expiry.run()
    assert (reason(expiry), find_hold(machine.store)) == (None, None)
    machine.time.go_on(days=2)
    assert (expiry.run(), num_items(machine.store)) == (2, 800)


def test_h9_a_restart_after_the_jump_notices_it(machine: Machine) -> None:
    machine.add(10)
    machine.process()
    machine.time.jump(days=31)
    for _ in range(2):
        restarted = machine.process()
        assert (reason(restarted), num_items(machine.store)) == ("clock", 10)
        machine.time.go_on(minutes=1)
        restarted.run()
    seen = find_hold(machine.store)
    assert seen
    confirm(machine.store, seen.as_of)
    assert (restarted.run(), num_items(machine.store), restarted.hold) == (10, 0, None)
    machine.add(3)
    machine.time.go_on(days=31)
    assert restarted.run() == 3  # the clock is believed again


def test_h9_a_gallery_from_before_goes_by_its_newest_change(machine: Machine) -> None:
    machine.add(5)
    machine.time.jump(days=31)
    assert reason(machine.process()) == "clock"


def test_h9_a_jump_of_two_hours_is_noticed_by_all_processes(machine: Machine) -> None:
    machine.add(1, 30 - 1 / 24)
    machine.add(50)
    first, second = machine.process(), machine.process()
    machine.time.jump(hours=2)
    first.run()
    third = machine.process()  # has only ever seen the new time
    second.run()
    assert [reason(one) for one in (first, second, third)] == ["clock"] * 3
    machine.time.jump(hours=-2)
    assert [one.run() for one in (first, second, third)] == [0, 0, 0]
    assert [reason(one) for one in (first, second, third)] == [None] * 3
    machine.time.go_on(hours=2)
    assert sum(one.run() for one in (third, first, second)) == 1


def test_h9_a_confirmed_jump_is_believed_by_all_processes(machine: Machine) -> None:
    machine.add(10, 25)
    machine.add(10)
    processes = [machine.process() for _ in range(3)]
    machine.time.jump(days=10)
    assert [one.run() for one in processes] == [0, 0, 0]
    seen = find_hold(machine.store)
    assert seen
    confirm(machine.store, seen.as_of)
    assert sum(one.run() for one in processes) == 10
    machine.time.go_on(days=21)
    assert sum(one.run() for one in processes) == 10
    assert [one.hold for one in processes] == [None] * 3


def test_h9_a_jump_after_the_look_is_not_confirmed(machine: Machine) -> None:
    machine.add(150, 31)
    machine.add(150)
    expiry = machine.process()
    seen = find_hold(machine.store)
    assert seen
    machine.time.jump(days=31)
    confirm(machine.store, seen.as_of)
    assert expiry.run() == 150
    assert (reason(expiry), num_items(machine.store)) == ("clock", 150)


def test_h9_a_confirmation_under_other_limits_is_dropped(machine: Machine) -> None:
    machine.add(150, 31)
    machine.add(150, 20)
    machine.process()
    seen = find_hold(machine.store)
    assert seen
    confirm(machine.store, seen.as_of)
    assert reason(machine.process(retention_days=10.0)) == "share"
    assert num_items(machine.store) == 300


def test_h9_a_hold_ends_by_itself_when_the_setting_is_corrected(machine: Machine) -> None:
    machine.add(150, 20)
    assert reason(machine.process(retention_days=10.0)) == "share"
    assert reason(machine.process()) is None
    with pytest.raises(NothingHeld, match="no expiry waits"):
        confirm(machine.store, machine.time.wall)


def test_h9_a_service_without_a_retention_holds_nothing(machine: Machine) -> None:
    machine.add(150, 4000)
    expiry = machine.process(retention_days=None)
    machine.time.jump(days=300)
    expiry.run()
    assert expiry.hold is None


def test_h9_a_steady_expiry_never_waits(machine: Machine) -> None:
    for day in range(40):
        machine.add(8, day)
    expiry = machine.process()
    for _ in range(100):
        machine.time.go_on(hours=6)
        expiry.run()
        assert expiry.hold is None
    with machine.sessions.read() as session:
        oldest = session.scalar(select(func.min(Item.created_at)))
    assert oldest is not None
    assert oldest >= machine.time.wall - 30 * DAY


def test_h9_a_clock_that_was_set_back_makes_no_new_item_old(machine: Machine) -> None:
    machine.process()
    machine.time.jump(days=-40)
    with machine.sessions.read() as session:
        assert enrolled_at(session, machine.time.wall) == NOON
    machine.time.jump(days=41)
    with machine.sessions.read() as session:
        assert enrolled_at(session, machine.time.wall) == NOON + DAY


seconds = st.integers(-40 * 86_400, 40 * 86_400)


@hypothesis_settings(max_examples=200, deadline=None)
@given(passed=st.lists(st.integers(0, 10 * 86_400), max_size=8), jump=seconds, then=st.integers(0, 86_400))
def test_h9_a_process_tells_a_jump_from_time_that_passes(passed: list[int], jump: int, then: int) -> None:
    time = SetClock()
    baseline = Reading(time.wall, time.steady_s)
    checked_at = time.wall
    for seconds_passed in passed:
        time.go_on(seconds=seconds_passed)
        assert is_right(Reading(time.wall, time.steady_s), baseline, Record(checked_at), 30 * 86_400)
        checked_at = time.wall
    time.jump(seconds=jump)
    time.go_on(seconds=then)
    is_believed = is_right(Reading(time.wall, time.steady_s), baseline, Record(checked_at), 30 * 86_400)
    assert is_believed is (abs(jump) <= DRIFT_S)
    just_started = is_right(Reading(time.wall, time.steady_s), None, Record(checked_at), 30 * 86_400)
    assert just_started is (abs(jump + then) <= GAP_S)


def test_h9_f24_a_database_of_before_opens_as_it_is(database_url: str, tmp_path: Path) -> None:
    engine = make_engine(database_url)
    with engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        job = "INSERT INTO jobs (id, kind, state, done, total, created_at) "
        connection.execute(text(job + "VALUES ('j', 'import', 'succeeded', 1, 1, '2026-01-01 00:00:00')"))
        file = "INSERT INTO job_files (job_id, position, name, label, error) "
        connection.execute(text(file + "VALUES ('j', 0, 'torn.jpg', '{}', 'torn')"))
    migrate(engine)
    store = Store(Settings(data_dir=tmp_path, retention_days=1), make_sessions(engine))
    assert Expiry(store).run() == 0
    progress = find_job(store, "j")
    assert (progress.num_failed, progress.num_warnings) == (1, 0)
    engine.dispose()


@pytest.fixture
def held_client(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a service that was restarted 31 days ahead, so that an expiry of two items waits."""
    settings = make_settings(tmp_path / "data", retention_days=30)
    with served_with_a_held_expiry(settings, crop(1), crop(2)) as client:
        yield client


def test_h9_a_person_is_told_and_confirms_by_a_command(held_client: httpx.Client) -> None:
    ready = held_client.get("/readyz").json()
    assert (ready["held_expiry"]["reason"], ready["held_expiry"]["num_items"]) == ("clock", 2)
    held = held_client.get("/retention").json()["held"]
    assert (held["reason"], held["num_items"], held["num_gallery"]) == ("clock", 2, 2)
    shown = run(held_client, "retention", "show")
    assert "items are erased after 30 days" in shown.output
    assert "2 of 2 items are past their retention" in " ".join(shown.output.split())
    refused = held_client.post("/retention/confirm", json={"as_of": "2026-01-01T00:00:00Z"})
    assert (refused.status_code, refused.json()["code"]) == (409, "nothing_held")
    done = run(held_client, "retention", "confirm")
    assert (done.exit_code, "confirmed: 2 items" in done.output) == (0, True)
    wait_until(lambda: not held_client.get("/gallery").json()["items"])
    wait_until(lambda: "held_expiry" not in held_client.get("/readyz").json())
    again = run(held_client, "retention", "confirm")
    assert (again.exit_code, "no expiry waits" in again.output) == (1, True)


def test_h9_a_hold_says_why_in_a_sentence() -> None:
    said = str(Hold("share", NOON, NOON, 1234, 5000))
    assert said.startswith("1,234 of 5,000 items are past their retention as of 2026-06-01T12:00:00Z")
