"""The schema, the sessions and the change log on SQLite and PostgreSQL; the crop store on a real disk."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.exc import IntegrityError, StatementError

from service.errors import CropMissing
from service.store.all_tables import METADATA
from service.store.changes import transaction
from service.store.crops import CropStore
from service.store.database import Sessions, make_engine, make_sessions, migrate
from service.store.tables import Identity, Item, new_id, now


@pytest.fixture
def sessions(engine: Engine) -> Sessions:
    return make_sessions(engine)


def add_item(sessions: Sessions, captured_at: datetime | None = None) -> Item:
    with transaction(sessions) as change:
        item = Item(
            slot=change.note("added"),
            id=new_id(),
            identity=Identity(id=new_id(), created_at=now()),
            captured_at=captured_at,
            created_at=now(),
            sha256="0" * 64,
            content_type="image/png",
            width=32,
            height=64,
        )
        change.session.add(item)
    return item


def test_the_migrated_schema_is_the_one_in_the_code(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_migrating_twice_and_all_the_way_down_and_up_works(engine: Engine) -> None:
    migrate(engine)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[3] / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
    migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_sqlite_is_set_up_to_lose_nothing(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'gallery.sqlite3'}")
    with engine.connect() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "foreign_keys", "synchronous")
        }
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2}


def test_foreign_keys_are_enforced(sessions: Sessions) -> None:
    item = add_item(sessions)
    with pytest.raises(IntegrityError), sessions.write.begin() as session:
        session.execute(text("DELETE FROM identities"))
    assert item.slot == 1


def test_a_slot_is_never_used_twice(sessions: Sessions) -> None:
    first = add_item(sessions)
    with transaction(sessions) as change:
        change.session.delete(change.session.get_one(Item, first.slot))
        change.note("removed", first.slot)
    assert add_item(sessions).slot == first.slot + 2


def test_times_come_back_aware_and_in_utc(sessions: Sessions) -> None:
    captured_at = datetime(2026, 5, 1, 12, 0, 0, 123456, timezone(timedelta(hours=5, minutes=30)))
    item = add_item(sessions, captured_at)
    with sessions.read() as session:
        found = session.scalars(select(Item.captured_at).where(Item.slot == item.slot)).one()
    assert found == captured_at
    assert found is not None
    assert found.tzinfo is UTC
    with pytest.raises(StatementError, match="aware"):
        add_item(sessions, datetime(2026, 5, 1))


def test_many_writers_that_read_first_all_get_their_turn(sessions: Sessions) -> None:
    add_item(sessions)

    def count_up(_: int) -> None:
        with transaction(sessions) as change:
            item = change.session.get_one(Item, 1)
            item.width += 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(count_up, range(80)))
    with sessions.read() as session:
        assert session.get_one(Item, 1).width == 32 + 80


def test_ids_sort_by_time() -> None:
    ids = [new_id() for _ in range(5)]
    assert {len(i) for i in ids} == {32}
    assert [i[:12] for i in ids] == sorted(i[:12] for i in ids)


def test_the_crop_store_keeps_equal_bytes_once(tmp_path: Path) -> None:
    store = CropStore(tmp_path / "crops")
    with ThreadPoolExecutor(8) as threads:
        hashes = set(threads.map(store.put, [b"the same"] * 32))
    (sha256,) = hashes
    assert store.get(sha256) == b"the same"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [store.path(sha256)]
    store.delete(sha256)
    store.delete(sha256)
    assert not store.has(sha256)


def test_a_crop_that_is_gone_or_changed_is_noticed(tmp_path: Path) -> None:
    store = CropStore(tmp_path)
    sha256 = store.put(b"whole")
    store.path(sha256).write_bytes(b"w0ole")
    with pytest.raises(CropMissing, match="changed"):
        store.get(sha256)
    store.delete(sha256)
    with pytest.raises(CropMissing, match="cannot be read"):
        store.get(sha256)
