"""A job that another process seems to be at."""

from datetime import timedelta
from typing import Any

from sqlalchemy import create_engine, insert

from service.settings import Settings
from service.store.tables import Job, JobFile, new_id, now


def put_running_job(
    settings: Settings,
    version: str | None,
    alive_for: timedelta = timedelta(seconds=9),
    kind: str = "activation",
    **fields: Any,
) -> str:
    """Write down a job that another process is at, 40 % of it done in 40 s, and return its id.

    Args:
        settings: the gallery.
        version: the network that is being activated.
        alive_for: how long no process takes the job over.
        kind: what the job does.
        fields: further columns of the job.
    """
    moment, engine = now(), create_engine(settings.database_url)
    row = {
        "id": new_id(),
        "kind": kind,
        "model_version": version,
        "state": "running",
        "done": 400,
        "total": 1000,
        "created_at": moment,
        "started_at": moment - timedelta(seconds=40),
        "alive_at": moment + alive_for,
        **fields,
    }
    with engine.begin() as connection:
        connection.execute(insert(Job).values(row))
    engine.dispose()
    return str(row["id"])


def put_failed_files(settings: Settings, job_id: str, num_files: int) -> None:
    """Write down files that a job could not enrol."""
    engine = create_engine(settings.database_url)
    rows = [
        {"job_id": job_id, "position": i, "name": f"{i}.jpg", "label": {}, "error": "not an image"}
        for i in range(num_files)
    ]
    with engine.begin() as connection:
        connection.execute(insert(JobFile), rows)
    engine.dispose()
