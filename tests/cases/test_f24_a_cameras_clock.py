"""F24: a camera whose clock is wrong. Its crops are taken, its times are named, nothing goes too early."""

import csv
import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, select, text

from archives import packed
from command_line import run
from live_server import crop, enroll, images, serve, wait_for_job
from service.gallery.ages import EARLIEST, MAX_AHEAD, is_plausible
from service.gallery.metadata import ItemMetadata
from service.people.retention import erase_expired
from service.settings import Settings
from service.store.database import make_engine, make_sessions, migrate
from service.store.store import Store
from service.store.tables import Item, JobFile

IMPLAUSIBLE = (
    "0001-01-01T00:00:00Z",
    "1970-01-01T00:00:00Z",
    "1999-12-31T23:59:59.999999Z",
    "2099-01-01T00:00:00Z",
    "2126-06-01T00:00:00+01:00",
    "9999-12-31T23:59:59.999999Z",
)


@pytest.fixture(scope="module")
def kept_for_30_days(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]
) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("f24") / "data"
    with serve(make_settings(folder, retention_days=30, retention_days_by_camera={"hall": 1})) as client:
        yield client


def days_ago(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


def post(client: httpx.Client, *contents: bytes, **fields: Any) -> dict[str, Any]:
    answer = client.post("/gallery", files=images(*contents), data=fields)
    assert answer.is_success, answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.mark.parametrize("captured_at", IMPLAUSIBLE)
def test_f24_an_implausible_time_is_taken_and_named_in_the_answer(
    kept_for_30_days: httpx.Client, captured_at: str
) -> None:
    answer = post(kept_for_30_days, crop(1), captured_at=captured_at)
    (warning,) = answer["warnings"]
    assert (warning["position"], warning["name"]) == (0, "0.jpg")
    assert warning["code"] == "implausible_time"
    assert "set the clock of the camera" in warning["detail"]
    item = kept_for_30_days.get(f"/gallery/{answer['items'][0]['id']}").json()
    assert datetime.fromisoformat(item["captured_at"]) == datetime.fromisoformat(captured_at)


@pytest.mark.parametrize("days", [None, 0, 29, -0.9])
def test_f24_a_plausible_time_has_no_warning(kept_for_30_days: httpx.Client, days: float | None) -> None:
    captured_at = "" if days is None else days_ago(days)
    assert post(kept_for_30_days, crop(1), captured_at=captured_at)["warnings"] == []


@pytest.mark.parametrize(("camera_id", "days"), [("door", 31), ("hall", 2), ("", 400)])
def test_f24_what_is_past_the_retention_when_it_comes_is_named(
    kept_for_30_days: httpx.Client, camera_id: str, days: int
) -> None:
    answer = post(kept_for_30_days, crop(2), crop(3), camera_id=camera_id, captured_at=days_ago(days))
    assert [(one["position"], one["code"]) for one in answer["warnings"]] == [
        (0, "past_retention"),
        (1, "past_retention"),
    ]
    assert "REID_RETENTION_DAYS" in answer["warnings"][0]["detail"]


def test_f24_a_correction_to_an_implausible_time_is_warned_of(kept_for_30_days: httpx.Client) -> None:
    (item,) = enroll(kept_for_30_days, crop(4))
    url = f"/gallery/{item['id']}"
    (warning,) = kept_for_30_days.patch(url, json={"captured_at": "1970-01-01T00:00:00Z"}).json()["warnings"]
    assert (warning["name"], warning["code"]) == (item["id"], "implausible_time")
    assert kept_for_30_days.patch(url, json={"camera_id": "x"}).json()["warnings"] == []


def test_f24_a_job_reports_the_warnings_of_its_files(client: httpx.Client) -> None:
    times = ("1970-01-01T00:00:00Z", "2026-03-01T00:00:00Z", "2199-01-01T00:00:00Z")
    rows = list(zip(("a.jpg", "b.jpg", "c.jpg"), times, strict=True))
    file = io.StringIO()
    csv.writer(file).writerows([("path", "captured_at"), *rows])
    members = {"gallery.csv": file.getvalue().encode()} | {name: crop(i) for i, (name, _) in enumerate(rows)}
    answer = client.post("/gallery", files={"archive": ("crops", packed("tar", members))})
    job = wait_for_job(client, answer.headers["location"])
    assert (job["state"], job["done"], job["num_failed"], job["num_warnings"]) == ("succeeded", 3, 0, 2)
    assert [(w["position"], w["name"], w["code"]) for w in job["warnings"]] == [
        (0, "a.jpg", "implausible_time"),
        (2, "c.jpg", "implausible_time"),
    ]


def test_f24_images_enrolled_by_a_job_are_warned_of_too(kept_for_30_days: httpx.Client) -> None:
    headers = {"Prefer": "respond-async"}
    fields = {"captured_at": "1980-01-01T00:00:00Z"}
    answer = kept_for_30_days.post("/gallery", files=images(crop(5)), data=fields, headers=headers)
    job = wait_for_job(kept_for_30_days, answer.headers["location"])
    assert [(w["name"], w["code"]) for w in job["warnings"]] == [("0.jpg", "implausible_time")]


def test_f24_an_erasure_takes_the_warnings_of_its_items_along(either_settings: Settings) -> None:
    with serve(either_settings) as client:
        files = {"archive": ("crops", packed("zip", {"anna/1.jpg": crop(6), "bert/1.jpg": crop(7)}))}
        fields = {"layout": "folders", "captured_at": "1970-01-01T00:00:00Z"}
        job = wait_for_job(client, client.post("/gallery", files=files, data=fields).headers["location"])
        assert job["num_warnings"] == 2
        receipt = client.delete("/identities/anna", params={"mode": "erase"}).json()
        assert receipt["erased"]["job_files"] == 1
        assert [w["name"] for w in client.get(f"/jobs/{job['id']}").json()["warnings"]] == ["bert/1.jpg"]
    engine = make_engine(either_settings.database_url)
    sessions = make_sessions(engine)
    store = Store(either_settings.model_copy(update={"retention_days": 1.0}), sessions)
    assert erase_expired(store, datetime.now(UTC) + timedelta(days=2)) == 1
    with sessions.read() as session:
        assert session.scalars(select(JobFile.name)).all() == []
    engine.dispose()


def test_f24_retention_goes_by_the_enrolment_where_the_capture_is_implausible(
    either_settings: Settings,
) -> None:
    with serve(either_settings) as client:
        for captured_at in (*IMPLAUSIBLE, days_ago(40)):
            enroll(client, crop(8), captured_at=captured_at)
    engine = make_engine(either_settings.database_url)
    store = Store(either_settings.model_copy(update={"retention_days": 30.0}), make_sessions(engine))
    assert erase_expired(store, datetime.now(UTC)) == 1  # the one that was captured 40 days ago
    assert erase_expired(store, datetime.now(UTC) + timedelta(days=29)) == 0
    assert erase_expired(store, datetime.now(UTC) + timedelta(days=31)) == len(IMPLAUSIBLE)
    engine.dispose()


def test_f24_the_commands_count_and_print_the_warnings(shared_client: httpx.Client, tmp_path: Path) -> None:
    folder = tmp_path / "crops"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(crop(9))
    (folder / "gallery.csv").write_text("path,captured_at\na.jpg,1970-01-01T00:00:00Z\n")
    done = run(shared_client, "import", folder)
    assert done.exit_code == 0
    assert "1 enrolled, 0 failed, 1 warning in " in done.output
    assert f"warning: {folder / 'a.jpg'}: captured_at 1970-01-01" in done.output


@pytest.mark.parametrize(
    ("value", "is_taken"),
    [
        (EARLIEST, True),
        (EARLIEST - timedelta(microseconds=1), False),
        (datetime(2026, 6, 2, tzinfo=UTC), True),
        (datetime(2026, 6, 2, 0, 0, 0, 1, tzinfo=UTC), False),
    ],
)
def test_f24_the_bounds_of_what_is_plausible(value: datetime, is_taken: bool) -> None:
    moment = datetime(2026, 6, 2, tzinfo=UTC) - MAX_AHEAD
    assert is_plausible(value, moment) is is_taken


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00"),
        ("2016-12-31t23:59:60.5z", "2017-01-01T00:00:00.500000+00:00"),
        ("2017-01-01T00:59:60+01:00", "2017-01-01T00:00:00+00:00"),
        ("2016-12-31 15:59:60-08:00", "2017-01-01T00:00:00+00:00"),
    ],
)
def test_q_a_leap_second_is_the_first_second_after_it(written: str, read: str) -> None:
    metadata = ItemMetadata.model_validate({"captured_at": written})
    assert metadata.captured_at == datetime.fromisoformat(read)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("2016-12-31T12:00:60Z", "there is none but at 23:59:60 in UTC"),
        ("2016-12-31T23:59:60+01:00", "there is none but at 23:59:60 in UTC"),
        ("9999-12-31T23:59:60Z", "outside the years 1 to 9999"),
        ("0001-01-01T00:00:00+01:00", "outside the years 1 to 9999"),
        ("2016-12-31T23:59:61Z", "there is no such time: second must be"),
        ("2026-02-30T00:00:00Z", "there is no such time: day"),
        ("2026-01-31T24:00:00Z", "there is no such time: hour"),
        ("0000-01-31T00:00:00Z", "there is no such time: year"),
        ("2026-01-31T08:15:00", "has no offset"),
        ("2026-01-31T08:15:00 01:00", "%2B"),
        ("2026-01-31 08:15:00.25 01:00", "%2B"),
        ("2026-01-31T08:15:00+0100", "such as 2026-01-31T08:15:00Z"),
        ("yesterday", "such as 2026-01-31T08:15:00Z"),
    ],
)
def test_q_a_time_that_cannot_be_read_is_refused_in_a_sentence(
    shared_client: httpx.Client, written: str, sentence: str
) -> None:
    answer = shared_client.post("/gallery", files=images(crop(1)), data={"captured_at": written})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert sentence in answer.json()["detail"]


def test_q_a_plus_that_became_a_space_in_a_query_is_explained(shared_client: httpx.Client) -> None:
    answer = shared_client.get("/gallery?captured_after=2026-01-31T08:15:00+01:00")
    assert answer.status_code == 422
    assert "write + as %2B" in answer.json()["detail"]
    assert shared_client.get("/gallery?captured_after=2026-01-31T08:15:00%2B01:00").status_code == 200


def test_f24_a_server_of_postgresql_in_another_zone_gives_the_first_and_last_years_back(
    postgres: Callable[[], str],
) -> None:
    engine: Engine = make_engine(postgres())
    migrate(engine)
    with engine.begin() as connection:
        name = connection.scalar(text("SELECT current_database()"))
        connection.execute(text(f"ALTER DATABASE {name} SET timezone TO 'Pacific/Kiritimati'"))
    engine.dispose()
    with engine.connect() as connection:
        assert connection.scalar(select(Item.captured_at)) is None
        last = connection.scalar(text("SELECT TIMESTAMPTZ '9999-12-31 23:59:59+00'"))
    assert last == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    engine.dispose()
