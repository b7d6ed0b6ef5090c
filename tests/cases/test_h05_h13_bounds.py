"""H5, H13, H16: what one request, or many small ones, may cost."""

import json
from datetime import timedelta

import httpx
from sqlalchemy import select

from archives import tar_of
from live_server import crop, images, serve, wait_for_job
from service.errors import TooManyJobs
from service.jobs.jobs import add_job
from service.jobs.limits import delete_old_jobs, require_room
from service.keys.callers import ANYBODY, Caller, Role, acting
from service.settings import Settings
from service.store.database import make_engine, make_sessions, migrate
from service.store.store import Store
from service.store.tables import Job, now


def test_h5_thousands_of_unknown_parameters_have_a_short_answer(shared_client: httpx.Client) -> None:
    answer = shared_client.get("/gallery?" + "&".join(f"camra{number}=1" for number in range(5_000)))
    assert answer.status_code == 422
    assert len(answer.content) < 20_000
    errors = answer.json()["errors"]
    assert len(errors) == 100
    assert errors[-1]["msg"] == "there are 5,000 faults; the first are listed"
    assert "did you mean" in errors[0]["msg"]


def test_h16_thousands_of_bad_entries_have_a_short_answer(shared_client: httpx.Client) -> None:
    entries = json.dumps([{"camera": "door"}] * 5_000)
    answer = shared_client.post("/gallery", files=images(crop(1)), data={"metadata": entries})
    assert (answer.status_code, len(answer.json()["errors"])) == (422, 100)
    assert len(answer.content) < 30_000


def test_h13_many_small_jobs_follow_each_other_and_are_bounded(settings: Settings) -> None:
    bounded = settings.model_copy(update={"max_jobs": 3})
    with serve(bounded) as client:
        answers = [
            client.post("/gallery", files={"archive": ("a.tar", tar_of({f"{number}.jpg": crop(number)}))})
            for number in range(12)
        ]
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) <= {202, 503}
        assert statuses[0] == 202
        for answer in answers:
            if answer.status_code == 202:
                assert wait_for_job(client, answer.headers["location"])["num_enrolled"] == 1
            else:
                assert (answer.json()["code"], answer.headers["retry-after"]) == ("too_many_jobs", "10")
        assert client.get("/readyz").json()["num_items"] == statuses.count(202)


def test_h13_imports_of_one_key_leave_room_for_those_of_others(settings: Settings) -> None:
    bounded = settings.model_copy(update={"max_jobs": 4, "max_jobs_per_key": 2})
    anna, ben = (Caller(name, name, Role.operator) for name in ("anna", "ben"))
    engine = make_engine(settings.database_url)
    migrate(engine)
    store = Store(bounded, make_sessions(engine))
    refusals = []
    for caller in (anna, anna, anna, ANYBODY, ben, ben):
        with acting(caller), store.change() as change:
            try:
                require_room(change.session, "import", 1, bounded)
                add_job(change, "import", total=1)
            except TooManyJobs as error:
                refusals.append(str(error))
    engine.dispose()
    assert len(refusals) == 2
    assert refusals[0].startswith("2 imports of this key with 2 crops wait already")
    assert refusals[1].startswith("4 imports of this service with 4 crops wait already")


def test_h13_an_activation_of_the_active_version_adds_no_job(client: httpx.Client) -> None:
    (model,) = client.get("/models").json()["models"]
    ids = set()
    for _ in range(3):
        answer = client.post(f"/models/{model['version']}/activate")
        assert (answer.status_code, answer.json()["state"]) == (202, "succeeded")
        ids.add(answer.json()["id"])
    assert len(ids) == 1


def test_h13_old_jobs_go_and_the_newest_evaluation_of_a_version_stays(settings: Settings) -> None:
    engine = make_engine(settings.database_url)
    migrate(engine)
    store = Store(settings, make_sessions(engine))
    long_ago = now() - timedelta(days=40)
    with store.write() as session:
        for number, (kind, result) in enumerate(
            [("import", None), ("evaluation", {"a": 1}), ("evaluation", {"a": 2}), ("import", None)]
        ):
            session.add(
                Job(
                    id=f"{number:032x}",
                    kind=kind,
                    model_version="v" if result else None,
                    state="succeeded",
                    result=result,
                    done=1,
                    total=1,
                    created_at=long_ago,
                    finished_at=now() if number == 3 else long_ago,
                )
            )
    delete_old_jobs(store, now())
    with store.read() as session:
        assert [int(one, 16) for one in session.scalars(select(Job.id).order_by(Job.id))] == [2, 3]
    engine.dispose()
