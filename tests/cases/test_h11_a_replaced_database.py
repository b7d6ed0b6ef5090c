"""H11: a database file that is deleted or replaced under a running server takes no more changes."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, text

from live_server import crop, enroll, images, search, serve
from service.errors import DatabaseReplaced
from service.settings import Settings
from service.store.database import make_engine, make_sessions, migrate


def by_rename(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


def by_deleting(path: Path) -> None:
    path.unlink()


def by_deleting_the_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def by_deleting_the_shared_memory(path: Path) -> None:
    path.with_name(f"{path.name}-shm").unlink()


def by_a_link(path: Path) -> None:
    moved = path.rename(path.with_name("moved"))
    path.symlink_to(moved)


def by_another_folder(path: Path) -> None:
    folder = path.parent.rename(path.parent.with_name("old folder"))
    path.parent.mkdir()
    shutil.copy(folder / path.name, path)


def by_no_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("old folder"))


WAYS = [
    by_rename,
    by_deleting,
    by_deleting_the_log,
    by_deleting_the_shared_memory,
    by_a_link,
    by_another_folder,
    by_no_folder,
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "db" / "gallery.sqlite3"


@pytest.fixture
def engine(file: Path) -> Iterator[Engine]:
    engine = make_engine(f"sqlite:///{file}")
    migrate(engine)
    yield engine
    engine.dispose()


def change(engine: Engine) -> None:
    with make_sessions(engine).write.begin() as session:
        session.execute(text("UPDATE galleries SET newest_change = newest_change + 1"))


@pytest.mark.parametrize("replace", WAYS)
def test_h11_a_change_is_refused_and_reading_goes_on(
    engine: Engine, file: Path, replace: Callable[[Path], None]
) -> None:
    change(engine)
    with make_sessions(engine).write() as under_way:
        under_way.execute(text("UPDATE galleries SET newest_change = newest_change + 1"))
        replace(file)
        with pytest.raises(DatabaseReplaced):
            under_way.commit()
    for _ in range(2):
        with pytest.raises(DatabaseReplaced):
            change(engine)
    with make_sessions(engine).read() as session:
        assert session.scalar(text("SELECT newest_change FROM galleries")) == 1
    with make_sessions(engine).read() as one, make_sessions(engine).read() as other:
        one.execute(text("SELECT 1"))
        with pytest.raises(DatabaseReplaced):
            other.execute(text("SELECT 1"))  # a new connection would open another file
    assert file.exists() == (replace not in (by_deleting, by_no_folder))


def test_h11_a_restart_mends(engine: Engine, file: Path) -> None:
    by_rename(file)
    with pytest.raises(DatabaseReplaced):
        change(engine)
    engine.dispose()
    again = make_engine(f"sqlite:///{file}")
    change(again)
    again.dispose()


def test_h11_ordinary_upkeep_is_no_replacement(engine: Engine, file: Path) -> None:
    """VACUUM, a checkpoint, a link to the folder, and connections that all end and come again."""
    change(engine)
    other = sqlite3.connect(file)
    other.execute("VACUUM")
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    change(engine)
    os.utime(file)
    engine.pool.dispose()
    change(engine)
    by_rename(file)
    engine.pool.dispose()
    with pytest.raises(DatabaseReplaced):
        change(engine)


def test_h11_a_server_answers_503_and_searches_go_on(settings: Settings) -> None:
    path = settings.data_dir / "gallery.sqlite3"
    with serve(settings) as client:
        enroll(client, crop(1), identity_id="anna")
        by_rename(path)
        for answer in (
            client.post("/gallery", files=images(crop(2))),
            client.delete("/identities/anna"),
            client.get("/readyz"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "database_replaced"), answer.text
            assert "restart" in answer.json()["detail"]
        assert search(client, crop(1))["matches"][0]["identity_id"] == "anna"
        assert client.get("/livez").status_code == httpx.codes.OK
    with serve(settings) as client:
        enroll(client, crop(2), identity_id="bert")
        assert search(client, crop(2))["matches"][0]["identity_id"] == "bert"
